//! Encodes rows as samples.
//!
//! | row         | tokens                                                      | targets of the loss        |
//! |-------------|-------------------------------------------------------------|----------------------------|
//! | text        | the text with special tokens, and EOS                       | all                        |
//! | completion  | prompt with special tokens, completion without, and EOS     | the completion and EOS     |
//! | chat        | the rendered chat template, which has its special tokens    | the assistant's turns      |
//! | instruction | as a completion of Alpaca's prompt                          | the output and EOS         |
//! | pair        | two samples, each as one of the above                       | all after the prompt       |
//!
//! Models with a chat template use it for completions and instructions too. Without a prompt mask all tokens are
//! targets.

use super::dialogues::dialogues;
use super::labels::Labels;
use super::sample::Sample;
use crate::data::rows::{Answer, Instruction, Pair, Prompt, Row};
use crate::data::text::Tokenizer;
use crate::{Error, Result};

impl Tokenizer {
    /// Encodes rows; the samples of a row follow each other, [one or two](Labels::samples_per_row).
    ///
    /// # Errors
    /// The index of the first row that cannot be encoded, and [`Error::Dataset`] without its location.
    pub(in crate::data) fn encode_rows(
        &self,
        rows: &[&Row],
        labels: Labels,
    ) -> Result<Vec<Sample>, (usize, Error)> {
        let mut conversations = Vec::new();
        // The row of each conversation, and those of plain text with their samples.
        let (mut owners, mut plain) = (Vec::new(), Vec::new());
        for (index, row) in rows.iter().enumerate() {
            check_kind(row, labels).map_err(|error| (index, error))?;
            let of_row = dialogues(row, labels != Labels::All);
            if of_row.is_empty() || self.chat_template().is_none() {
                let samples = self.encode_plain(row, labels).map_err(|error| (index, error))?;
                plain.push((index, samples));
            } else {
                owners.extend(vec![index; of_row.len()]);
                conversations.extend(of_row);
            }
        }
        let rendered = match self.chat_template() {
            Some(template) if !conversations.is_empty() => self
                .encode_dialogues(template, &conversations)
                .map_err(|(conversation, error)| (owners[conversation], error))?,
            _ => Vec::new(),
        };
        let mut samples: Vec<(usize, Sample)> = owners.into_iter().zip(rendered).collect();
        samples.extend(
            plain.into_iter().flat_map(|(index, of_row)| of_row.into_iter().map(move |it| (index, it))),
        );
        samples.sort_by_key(|(index, _)| *index);
        let samples: Vec<Sample> = samples.into_iter().map(|(_, sample)| sample).collect();
        if labels == Labels::PreferencePairs
            && let Some(index) = samples.chunks(2).position(|pair| pair[0].ids == pair[1].ids)
        {
            let message = "\"chosen\" and \"rejected\" are the same tokens, so neither can be preferred";
            return Err((index, Error::Dataset(message.to_owned())));
        }
        Ok(samples)
    }

    /// Encodes a row without the chat template.
    fn encode_plain(&self, row: &Row, labels: Labels) -> Result<Vec<Sample>> {
        let mask_prompt = labels != Labels::All;
        match row {
            Row::Text(text) => {
                let mut ids = self.encode(text, true)?;
                if ids.last().is_none_or(|id| !self.eos_ids().contains(id)) {
                    ids.extend(self.eos_ids().first());
                }
                Ok(vec![Sample::new(ids, |_| true)])
            }
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
                let encode = |answer| self.encode_completion(&prompt, answer, true);
                Ok(vec![encode(chosen)?, encode(rejected)?])
            }
            Row::Pair(_) => Err(no_template_for_pairs()),
        }
    }

    fn encode_completion(&self, prompt: &str, completion: &str, mask_prompt: bool) -> Result<Sample> {
        let mut ids = self.encode_prompt(prompt)?;
        let prompt_len = ids.len();
        ids.extend(self.encode(completion, false)?);
        ids.extend(self.eos_ids().first());
        Ok(Sample::new(ids, |index| !mask_prompt || index >= prompt_len))
    }
}

/// Checks that the kind of `row` is what `labels` are for.
fn check_kind(row: &Row, labels: Labels) -> Result<()> {
    match (row, labels) {
        (Row::Pair(_), Labels::PreferencePairs) => Ok(()),
        (Row::Pair(_), _) => Err(Error::Dataset(
            "the row is a pair of answers (\"chosen\" and \"rejected\"), which objective \"dpo\" or \"orpo\" \
             learns from; for \"sft\" name other columns, such as columns prompt=prompt,completion=chosen"
                .to_owned(),
        )),
        (_, Labels::PreferencePairs) => Err(Error::Dataset(format!(
            "the row is of the kind \"{}\", but objective \"dpo\" or \"orpo\" learns from pairs of answers, \
             \"chosen\" and \"rejected\"; such rows are for objective \"sft\"",
            row.kind()
        ))),
        _ => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    use crate::data::Chat;
    use crate::data::fixture::{self, BOS, CHATML, END, EOS, SPACE_A, TURN};

    impl Tokenizer {
        fn encode_sample(&self, row: &Row, mask_prompt: bool) -> Result<Sample> {
            let samples = self.encode_rows(&[row], Labels::from_mask_prompt(mask_prompt));
            samples.map_err(|(_, error)| error).map(|samples| samples.into_iter().next().unwrap())
        }
    }

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
        for text in ["hi", "hi</s>"] {
            let sample = tokenizer.encode_sample(&Row::Text(text.to_owned()), true).unwrap();
            assert_eq!(sample.ids, [BOS, 104, 105, EOS]);
            assert_eq!(sample.loss_mask, [false, true, true, true]);
        }
    }

    #[test]
    fn a_completion_is_learned_from_its_exact_boundary() {
        let tokenizer = fixture::tokenizer(None);
        // " A" is one token; the boundary inside of it keeps it two.
        let sample = tokenizer.encode_sample(&completion("Q: ", "A A"), true).unwrap();
        assert_eq!(sample.ids, [&[BOS][..], &bytes("Q: A"), &[SPACE_A, EOS]].concat());
        assert_eq!(targets(&sample), [u32::from(b'A'), SPACE_A, EOS]);
        let everything = tokenizer.encode_sample(&completion("Q: ", "A A"), false).unwrap();
        assert_eq!(targets(&everything), sample.ids[1..]);
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
        assert_eq!(targets(&sample), [SPACE_A, END]);
    }

    #[test]
    fn every_turn_of_a_chat_is_learned() {
        let tokenizer = fixture::tokenizer(Some(CHATML));
        let said = |role: &str, content: &str| json!({"role": role, "content": content});
        let messages =
            vec![said("user", "a"), said("assistant", "😀"), said("user", "b"), said("assistant", "c")];
        let row = Row::Chat(Chat { messages, ..Chat::default() });
        let masked = tokenizer.encode_sample(&row, true).unwrap();
        assert_eq!(targets(&masked), [&bytes("😀")[..], &[END], &bytes("c"), &[END]].concat());
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
        let messages = vec![json!({"role": "user", "content": "a"})];
        let row = Row::Chat(Chat { messages, ..Chat::default() });
        let error = fixture::tokenizer(None).encode_sample(&row, true).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the row holds messages but the tokenizer has no chat template; \
             use rows with \"prompt\" and \"completion\", or a model with a chat template"
        );
    }
}
