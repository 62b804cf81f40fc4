//! Encodes rows as samples.
//!
//! | row         | tokens                                                      | targets of the loss        |
//! |-------------|-------------------------------------------------------------|----------------------------|
//! | text        | the text with special tokens, and EOS                       | all                        |
//! | completion  | prompt and completion as one text, special tokens, and EOS  | the completion and EOS     |
//! | chat        | the rendered chat template, which has its special tokens    | the assistant's turns      |
//! | instruction | as a completion of Alpaca's prompt                          | the output and EOS         |
//! | pair        | two samples, each as one of the above                       | all after the prompt       |
//! | tokens      | as they are, if they are of the same tokenizer              | as they say                |
//!
//! A text that begins with BOS or ends with EOS itself gets no second one. A completion starts at the first token that
//! the prompt alone does not have, since a token may hold the end of the prompt and the beginning of the completion.
//! Models with a chat template use it for completions and instructions too. Without a prompt mask all tokens are
//! targets.

use super::dialogues::dialogues;
use super::labels::Labels;
use super::sample::Sample;
use crate::data::rows::Row;
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::data::fixture::{self, BOS, CHATML, END, EOS, SPACE_A, TURN};
    use crate::data::{Answer, Chat, Instruction, Pair, Prompt};

    impl Tokenizer {
        fn encode_sample(&self, row: &Row, mask_prompt: bool) -> Result<Sample> {
            let samples = self.encode_rows(&[row], Labels::from_mask_prompt(mask_prompt));
            samples.map_err(|(_, error)| error).map(|samples| samples.into_iter().next().unwrap())
        }

        fn encode_pair(&self, row: &Row) -> Result<[Sample; 2]> {
            let samples = self.encode_rows(&[row], Labels::PreferencePairs);
            samples.map_err(|(_, error)| error).map(|samples| samples.try_into().unwrap())
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
