//! Encodes rows as samples.
//!
//! | row         | tokens                                                      | targets of the loss        |
//! |-------------|-------------------------------------------------------------|----------------------------|
//! | text        | the text with special tokens, and EOS                       | all                        |
//! | completion  | prompt and completion as one text, special tokens, and EOS  | the completion and EOS     |
//! | chat        | the rendered chat template, which has its special tokens    | the assistant's turns      |
//! | instruction | as a completion of Alpaca's prompt                          | the output and EOS         |
//! | pair        | two samples, each as one of the above                       | all after the prompt       |
//!
//! A text that begins with BOS or ends with EOS itself gets no second one. A completion starts at the first token that
//! the prompt alone does not have, since a token may hold the end of the prompt and the beginning of the completion.
//! Models with a chat template use it for completions and instructions too. Without a prompt mask all tokens are
//! targets.

use std::borrow::Cow;

use serde_json::json;

use super::sample::Sample;
use crate::data::chat::ChatTemplate;
use crate::data::chat::transcript::{render_answer, render_transcript};
use crate::data::rows::{Answer, Pair, Prompt, Row};
use crate::data::text::Tokenizer;
use crate::{Error, Result};

impl Tokenizer {
    /// Encodes a row other than a pair; `mask_prompt` excludes prompts from the loss.
    ///
    /// # Errors
    /// [`Error::Dataset`] without the location of the row, which the caller adds.
    pub fn encode_sample(&self, row: &Row, mask_prompt: bool) -> Result<Sample> {
        match (row, self.chat_template()) {
            (Row::Text(text), _) => {
                let mut ids = self.encode_text(text)?;
                if ids.last().is_none_or(|id| !self.eos_ids().contains(id)) {
                    ids.extend(self.eos_ids().first());
                }
                Ok(Sample::new(ids, |_| true))
            }
            (Row::Completion { prompt, completion }, None) => {
                self.encode_completion(prompt, completion, mask_prompt)
            }
            (Row::Instruction(row), None) if row.history.is_empty() => {
                self.encode_completion(&row.prompt(), &row.output, mask_prompt)
            }
            (Row::Instruction(_), None) => Err(no_template_for_history()),
            (Row::Instruction(row), Some(template)) => {
                self.encode_chat(template, &row.messages(), None, mask_prompt)
            }
            (Row::Completion { prompt, completion }, Some(template)) => {
                let messages = [
                    json!({"role": "user", "content": prompt}),
                    json!({"role": "assistant", "content": completion}),
                ];
                self.encode_chat(template, &messages, None, mask_prompt)
            }
            (Row::Chat { messages, tools }, Some(template)) => {
                self.encode_chat(template, messages, tools.as_ref(), mask_prompt)
            }
            (Row::Chat { .. }, None) => Err(no_template_for_messages("\"prompt\" and \"completion\"")),
            (Row::Pair(_), _) => Err(Error::Dataset(
                "the row is a pair of answers (\"chosen\" and \"rejected\"), which objective \"dpo\" or \"orpo\" \
                 learns from; for \"sft\" name other columns, such as columns prompt=prompt,completion=chosen"
                    .to_owned(),
            )),
        }
    }

    /// Encodes a preference pair as two samples, the chosen answer first. Each starts with the prompt, which is
    /// masked.
    ///
    /// # Errors
    /// [`Error::Dataset`] without the location of the row, which the caller adds.
    pub fn encode_pair(&self, row: &Row) -> Result<[Sample; 2]> {
        let Row::Pair(Pair { prompt, answers: [chosen, rejected] }) = row else {
            return Err(Error::Dataset(format!(
                "the row is of the kind \"{}\", but objective \"dpo\" or \"orpo\" learns from pairs of answers, \
                 \"chosen\" and \"rejected\"; such rows are for objective \"sft\"",
                row.kind()
            )));
        };
        let pair = match (self.prefix_of_answers(prompt), chosen, rejected) {
            (Some(prompt), Answer::Text(chosen), Answer::Text(rejected)) => {
                self.encode_text_pair(&prompt, [chosen, rejected])?
            }
            _ => [self.encode_answer(prompt, chosen)?, self.encode_answer(prompt, rejected)?],
        };
        if pair[0].ids == pair[1].ids {
            return Err(Error::Dataset(
                "\"chosen\" and \"rejected\" are the same tokens, so neither can be preferred".to_owned(),
            ));
        }
        Ok(pair)
    }

    /// The prompt of answers that are texts, if no chat template renders them.
    fn prefix_of_answers<'a>(&self, prompt: &'a Prompt) -> Option<Cow<'a, str>> {
        match (prompt, self.chat_template()) {
            (Prompt::Prefix(text), _) | (Prompt::User(text), None) => Some(Cow::Borrowed(text)),
            (Prompt::Instruction(row), None) if row.history.is_empty() => Some(Cow::Owned(row.prompt())),
            _ => None,
        }
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

    fn encode_answer(&self, prompt: &Prompt, answer: &Answer) -> Result<Sample> {
        match (prompt, answer, self.chat_template()) {
            (Prompt::Instruction(_), _, None) => Err(no_template_for_history()),
            (_, _, None) => {
                Err(no_template_for_messages("\"prompt\", \"chosen\" and \"rejected\" that are texts"))
            }
            (_, _, Some(template)) => {
                let tools = match prompt {
                    Prompt::Chat { tools, .. } => tools.as_ref(),
                    _ => None,
                };
                let transcript = render_answer(template, &prompt.messages(), &answer.messages(), tools)?;
                let (ids, ends) = self.encode_with_end_offsets(&transcript.text)?;
                Ok(Sample::new(ids, |index| transcript.is_assistant_token(ends[index])))
            }
        }
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

    fn encode_chat(
        &self,
        template: &ChatTemplate,
        messages: &[serde_json::Value],
        tools: Option<&serde_json::Value>,
        mask_prompt: bool,
    ) -> Result<Sample> {
        if !mask_prompt {
            return Ok(Sample::new(self.encode(&template.render(messages, tools, false)?, false)?, |_| true));
        }
        let transcript = render_transcript(template, messages, tools)?;
        let (ids, ends) = self.encode_with_end_offsets(&transcript.text)?;
        Ok(Sample::new(ids, |index| transcript.is_assistant_token(ends[index])))
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Instruction;
    use crate::data::fixture::{self, BOS, CHATML, END, EOS, SPACE_A, TURN};

    fn bytes(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    fn completion(prompt: &str, completion: &str) -> Row {
        Row::Completion { prompt: prompt.to_owned(), completion: completion.to_owned() }
    }

    /// The tokens that are learned.
    fn targets(sample: &Sample) -> Vec<u32> {
        sample
            .ids
            .iter()
            .zip(&sample.loss_mask)
            .filter(|(_, is_target)| **is_target)
            .map(|(id, _)| *id)
            .collect()
    }

    #[test]
    fn text_is_learned_whole_and_ends_once() {
        let tokenizer = fixture::tokenizer(None);
        for text in ["hi", "hi</s>", "<s>hi", "<s>hi</s>"] {
            let sample = tokenizer.encode_sample(&Row::Text(text.to_owned()), true).unwrap();
            assert_eq!(sample.ids, [BOS, 104, 105, EOS]);
            assert_eq!(sample.loss_mask, [false, true, true, true]);
        }
    }

    #[test]
    fn a_token_across_the_boundary_belongs_to_the_completion() {
        let tokenizer = fixture::tokenizer(None);
        // " A" is one token.
        let sample = tokenizer.encode_sample(&completion("Q: ", "A A"), true).unwrap();
        assert_eq!(sample.ids, [&[BOS][..], &bytes("Q:"), &[SPACE_A, SPACE_A, EOS]].concat());
        assert_eq!(targets(&sample), [SPACE_A, SPACE_A, EOS]);
        let everything = tokenizer.encode_sample(&completion("Q: ", "A A"), false).unwrap();
        assert_eq!(targets(&everything), sample.ids[1..]);
    }

    /// The expected values are those of TRL 1.16 (`SFTTrainer`, `DPOTrainer`), but for the BOS that a prompt has itself.
    #[test]
    fn prompts_and_completions_are_one_text() {
        let byte_level = fixture::tokenizer(None);
        let llama = fixture::llama(&json!({}));
        for (tokenizer, prompt, answer, ids, learned) in [
            (&byte_level, "a", "b</s>", vec![257, 97, 98, 258], 2),
            (&byte_level, "a b", "", vec![257, 97, 32, 98, 258], 1),
            (&byte_level, "<s>a", "b", vec![257, 97, 98, 258], 2),
            (&byte_level, "a</s>", "", vec![257, 97, 258, 258], 1),
            (&llama, "def f(", "x):", vec![1, 356, 329, 259, 329, 267, 347, 268, 285, 2], 4),
            (&llama, "Q: ", "A A", vec![1, 259, 308, 285, 259, 292, 259, 292, 2], 4),
            (&llama, "Q:", " A A", vec![1, 259, 308, 285, 259, 292, 259, 292, 2], 5),
            (&llama, "", "", vec![1, 2], 1),
            (&llama, "<s>a", "b", vec![1, 324, 325, 2], 2),
            (&llama, "de", "f x", vec![1, 356, 329, 259, 347, 2], 4),
            (&llama, "a b", "", vec![1, 259, 324, 259, 325, 2], 1),
        ] {
            let sample = tokenizer.encode_sample(&completion(prompt, answer), true).unwrap();
            assert_eq!(targets(&sample), ids[ids.len() - learned..], "{prompt:?} {answer:?}");
            assert_eq!(sample.ids, ids, "{prompt:?} {answer:?}");
        }
        for (tokenizer, prompt, answers, prompt_ids, chosen, rejected) in [
            // The chosen answer takes the last space of the prompt into its first token.
            (&byte_level, "Q: ", ["A x", "b"], vec![257, 81, 58], vec![256, 32, 120, 258], vec![32, 98, 258]),
            (&byte_level, "a", [" A", " b</s>"], vec![257, 97], vec![256, 258], vec![32, 98, 258]),
            (&llama, "Q: ", ["A x", "b"], vec![1, 259, 308, 285, 259], vec![292, 259, 347, 2], vec![325, 2]),
            (&llama, "de", ["f x", "x"], vec![1, 356], vec![329, 259, 347, 2], vec![347, 2]),
        ] {
            let answer = |text: &str| Answer::Text(text.to_owned());
            let prompt = Prompt::User(prompt.to_owned());
            let row = Row::Pair(Pair { prompt, answers: answers.map(answer) });
            let pair = tokenizer.encode_pair(&row).unwrap();
            for (sample, answer) in pair.iter().zip([chosen, rejected]) {
                assert_eq!(sample.ids, [&prompt_ids[..], &answer].concat());
                assert_eq!(targets(sample), answer);
            }
        }
    }

    #[test]
    fn an_empty_completion_teaches_to_stop() {
        let sample = fixture::tokenizer(None).encode_sample(&completion("", ""), true).unwrap();
        assert_eq!((sample.ids, sample.loss_mask), (vec![BOS, EOS], vec![false, true]));
    }

    #[test]
    fn with_a_template_a_completion_is_a_chat() {
        let tokenizer = fixture::tokenizer(Some(CHATML));
        let sample = tokenizer.encode_sample(&completion("é?", " A"), true).unwrap();
        let text = [
            &[TURN][..],
            &bytes("user\né?"),
            &[END],
            &bytes("\n"),
            &[TURN],
            &bytes("assistant\n"),
            &[SPACE_A, END],
            &bytes("\n"),
        ];
        assert_eq!(sample.ids, text.concat());
        assert_eq!(targets(&sample), [SPACE_A, END, u32::from(b'\n')]);
    }

    #[test]
    fn every_turn_of_a_chat_is_learned() {
        let tokenizer = fixture::tokenizer(Some(CHATML));
        let said = |role: &str, content: &str| json!({"role": role, "content": content});
        let messages =
            vec![said("user", "a"), said("assistant", "😀"), said("user", "b"), said("assistant", "c")];
        let row = Row::Chat { messages, tools: None };
        let masked = tokenizer.encode_sample(&row, true).unwrap();
        assert_eq!(
            targets(&masked),
            [&bytes("😀")[..], &[END], &bytes("\nc"), &[END], &bytes("\n")].concat()
        );
        let everything = tokenizer.encode_sample(&row, false).unwrap();
        assert_eq!(everything.ids, masked.ids);
        assert_eq!(targets(&everything), masked.ids[1..]);
    }

    #[test]
    fn an_instruction_is_a_chat_or_the_prompt_of_alpaca() {
        let row = Instruction { instruction: "é?".into(), output: " A".into(), ..Instruction::default() };
        let chat = fixture::tokenizer(Some(CHATML));
        let as_chat = chat.encode_sample(&Row::Instruction(row.clone()), true).unwrap();
        assert_eq!(as_chat, chat.encode_sample(&completion("é?", " A"), true).unwrap());
        let base = fixture::tokenizer(None);
        let prompt = row.prompt();
        let as_prompt = base.encode_sample(&Row::Instruction(row.clone()), true).unwrap();
        assert_eq!(as_prompt, base.encode_sample(&completion(&prompt, " A"), true).unwrap());
        assert_eq!(targets(&as_prompt), [SPACE_A, EOS]);
        let longer = Instruction { history: vec![["a".into(), "b".into()]], ..row };
        assert_eq!(
            targets(&chat.encode_sample(&Row::Instruction(longer.clone()), true).unwrap())[..2],
            [u32::from(b'b'), END]
        );
        let error = base.encode_sample(&Row::Instruction(longer), true).unwrap_err();
        assert!(error.to_string().starts_with("the row has a \"history\""), "{error}");
    }

    #[test]
    fn a_chat_without_a_template_suggests_completions() {
        let row = Row::Chat { messages: vec![json!({"role": "user", "content": "a"})], tools: None };
        let error = fixture::tokenizer(None).encode_sample(&row, true).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the row holds messages but the tokenizer has no chat template; \
             use rows with \"prompt\" and \"completion\", or a model with a chat template"
        );
    }
}
