//! Output in a given format: a JSON schema, a regular expression or a grammar, by
//! [llguidance](https://github.com/guidance-ai/llguidance).

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::data::Tokenizer;
use crate::{Error, Result};

/// Format of the output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ResponseFormat {
    /// JSON that follows a schema (<https://json-schema.org>); `{}` for any object or value.
    JsonSchema(Value),
    /// A text that matches a regular expression as a whole.
    Regex(String),
    /// A text of a context-free grammar, in the notation of Lark.
    Grammar(String),
}

/// The tokens of a vocabulary as bytes, in a trie.
pub struct Vocabulary(ParserFactory);

/// Which tokens may come next.
#[derive(Clone)]
pub struct Constraint(Matcher);

impl Vocabulary {
    /// Reads the tokens of `tokenizer`; `vocab` is the number of logits of the model.
    ///
    /// # Errors
    /// A tokenizer without end-of-sequence token, or one whose tokens cannot be read.
    pub fn new(tokenizer: &Tokenizer, vocab: i32) -> Result<Self> {
        let Some(&eos) = tokenizer.eos_ids().first() else {
            return Err(Error::ModelLoading(
                "a format of the output needs a tokenizer with an end-of-sequence token".into(),
            ));
        };
        let words = tokenizer.token_bytes(vocab.unsigned_abs() as usize);
        let trie = TokTrie::from(&TokRxInfo::new(vocab.unsigned_abs(), eos), &words);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &[])
            .map_err(|error| Error::ModelLoading(format!("the tokens of the tokenizer: {error}")))?;
        factory.quiet();
        Ok(Self(factory))
    }

    /// Compiles a format.
    ///
    /// # Errors
    /// [`Error::Config`] with the reason why it cannot be compiled.
    pub fn constrain(&self, format: &ResponseFormat) -> Result<Constraint> {
        let grammar = match format {
            ResponseFormat::JsonSchema(schema) => TopLevelGrammar::from_json_schema(on_one_line(schema)),
            ResponseFormat::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
            ResponseFormat::Grammar(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        };
        let refused = |error: &dyn std::fmt::Display| Error::Config(format!("response_format: {error}"));
        let parser = self.0.create_parser(grammar).map_err(|error| refused(&error))?;
        let matcher = Matcher::new(Ok(parser));
        match matcher.get_error() {
            Some(error) => Err(refused(&error)),
            None => Ok(Constraint(matcher)),
        }
    }
}

/// The schema with separators of at most one space: models that may write any white space write it without end.
fn on_one_line(schema: &Value) -> Value {
    let mut schema = if *schema == Value::Bool(true) { json!({}) } else { schema.clone() };
    if let Some(schema) = schema.as_object_mut() {
        let options = json!({"item_separator": ", ?", "key_separator": ": ?", "whitespace_flexible": false});
        schema.entry("x-guidance").or_insert(options);
    }
    schema
}

impl Constraint {
    /// Sets the logits of tokens that may not come next to -∞. Where the text may end, every token of `eos` may.
    ///
    /// # Errors
    /// A format whose limits of size or time are exceeded.
    pub fn mask(&mut self, logits: &mut [f32], eos: &[u32]) -> Result<()> {
        let allowed = self.0.compute_mask_or_eos().map_err(|error| failed(&error))?;
        let ends = eos.iter().any(|&id| allowed.get(id as usize));
        for (id, logit) in logits.iter_mut().enumerate() {
            if !(allowed.get(id) || ends && eos.contains(&(id as u32))) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Takes the token that was chosen. Returns whether the text is complete and nothing can follow.
    ///
    /// # Errors
    /// A token that was not allowed.
    pub fn accept(&mut self, token: u32) -> Result<bool> {
        self.0.consume_token(token).map_err(|error| failed(&error))?;
        Ok(self.0.is_stopped())
    }
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}

fn failed(error: &dyn std::fmt::Display) -> Error {
    Error::Config(format!("response_format: {error}"))
}
