//! Whether two tokenizers have one vocabulary.

use super::tokenizer::Tokenizer;

impl Tokenizer {
    /// The lowest token id that stands for another token in `other`, with the token here and there; `None` if ids mean the
    /// same tokens.
    #[must_use]
    pub fn first_difference(&self, other: &Self) -> Option<(u32, Option<String>, Option<String>)> {
        if self.fingerprint() == other.fingerprint() {
            return None;
        }
        let [here, there] = [self, other].map(|tokenizer| tokenizer.inner.unbounded());
        let ids = [here, there].into_iter().flat_map(|tokenizer| tokenizer.get_vocab(true).into_values());
        let differing = ids.filter(|&id| here.id_to_token(id) != there.id_to_token(id)).min()?;
        Some((differing, here.id_to_token(differing), there.id_to_token(differing)))
    }
}
