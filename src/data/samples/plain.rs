//! Rows that are tokenized without a chat template.

use super::labels::Labels;
use super::sample::Sample;
use crate::data::rows::{Answer, Instruction, Pair, Prompt, Row, TokenRow};
use crate::data::text::Tokenizer;
use crate::{Error, Result};

impl Tokenizer {
    /// Encodes a row without the chat template.
    pub(super) fn encode_plain(&self, row: &Row, labels: Labels) -> Result<Vec<Sample>> {
        let mask_prompt = labels != Labels::All;
        match row {
            Row::Text(text) => {
                let mut ids = self.encode_text(text)?;
                if ids.last().is_none_or(|id| !self.eos_ids().contains(id)) {
                    ids.extend(self.eos_ids().first());
                }
                Ok(vec![Sample::new(ids, |_| true)])
            }
            Row::Tokens(row) => Ok(vec![self.check_tokens(row, mask_prompt)?]),
            Row::Completion { prompt, completion } => {
                Ok(vec![self.encode_completion(prompt, completion, mask_prompt)?])
            }
            Row::Instruction(row) => {
                Ok(vec![self.encode_completion(&plain_prompt(row)?, &row.output, mask_prompt)?])
            }
            Row::Chat(_) => Err(no_template_for_messages("\"prompt\" and \"completion\"")),
            Row::Pair(Pair { prompt, answers: [Answer::Text(chosen), Answer::Text(rejected)] }) => {
                let prompt = match prompt {
                    Prompt::Prefix(text) | Prompt::User(text) => text.clone(),
                    Prompt::Instruction(row) => plain_prompt(row)?,
                    Prompt::Chat(_) => return Err(no_template_for_pairs()),
                };
                self.encode_text_pair(&prompt, [chosen, rejected]).map(Vec::from)
            }
            Row::Pair(_) => Err(no_template_for_pairs()),
        }
    }

    /// The sample of a row that has been encoded.
    fn check_tokens(&self, row: &TokenRow, mask_prompt: bool) -> Result<Sample> {
        if *row.tokenizer != *self.fingerprint() {
            return Err(Error::Dataset(format!(
                "the token ids are those of another tokenizer (its fingerprint is {}, that of this model {}); make the \
                 file again from its text, with this model",
                row.tokenizer,
                self.fingerprint()
            )));
        }
        Ok(Sample::new(row.ids.clone(), |index| !mask_prompt || row.learned[index]))
    }

    /// Encodes two answers; both learn from the first token on in which one of them leaves the prompt.
    fn encode_text_pair(&self, prompt: &str, answers: [&str; 2]) -> Result<[Sample; 2]> {
        let prompt_ids = self.encode_prompt(prompt)?;
        let [(chosen, chosen_start), (rejected, rejected_start)] = [
            self.encode_after_prompt(&prompt_ids, prompt, answers[0])?,
            self.encode_after_prompt(&prompt_ids, prompt, answers[1])?,
        ];
        let start = chosen_start.min(rejected_start);
        Ok([chosen, rejected].map(|ids| Sample::new(ids, |index| index >= start)))
    }

    fn encode_completion(&self, prompt: &str, completion: &str, mask_prompt: bool) -> Result<Sample> {
        let prompt_ids = self.encode_prompt(prompt)?;
        let (ids, start) = self.encode_after_prompt(&prompt_ids, prompt, completion)?;
        Ok(Sample::new(ids, |index| !mask_prompt || index >= start))
    }

    /// Encodes prompt and completion as one text, and EOS. Also returns where the tokens part from `prompt_ids`, those of
    /// the prompt alone.
    fn encode_after_prompt(
        &self,
        prompt_ids: &[u32],
        prompt: &str,
        completion: &str,
    ) -> Result<(Vec<u32>, usize)> {
        let mut ids = self.encode_text(&[prompt, completion].concat())?;
        let start = prompt_ids.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        if ids[start..].last().is_none_or(|id| !self.eos_ids().contains(id)) {
            ids.extend(self.eos_ids().first());
        }
        Ok((ids, start))
    }
}

/// The prompt of an instruction for models without a chat template.
fn plain_prompt(row: &Instruction) -> Result<String> {
    if row.history.is_empty() { Ok(row.prompt()) } else { Err(no_template_for_history()) }
}

fn no_template_for_pairs() -> Error {
    no_template_for_messages("\"prompt\", \"chosen\" and \"rejected\" that are texts")
}

fn no_template_for_messages(instead: &str) -> Error {
    Error::Dataset(format!(
        "the row holds messages but the tokenizer has no chat template; use rows with {instead}, or a model with a \
         chat template"
    ))
}

fn no_template_for_history() -> Error {
    Error::Dataset(
        "the row has a \"history\" but the tokenizer has no chat template to tell turns apart; \
         use a model with a chat template"
            .to_owned(),
    )
}
