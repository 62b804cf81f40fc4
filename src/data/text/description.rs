//! A tokenizer as a file describes it.

use serde_json::Value;

use super::tokenizer::Tokenizer;
use crate::{Error, Result};

impl Tokenizer {
    /// The tokenizer as a `tokenizer.json` describes it, tokens of other files included.
    ///
    /// # Errors
    /// [`Error::ModelLoading`] if the library cannot express it.
    pub fn to_json(&self) -> Result<Value> {
        let json = serde_json::to_value(self.inner.unbounded());
        json.map_err(|error| Error::ModelLoading(format!("the tokenizer cannot be described: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use crate::data::fixture;

    #[test]
    fn a_description_is_that_of_the_file() {
        let json = fixture::tokenizer(None).to_json().unwrap();
        assert_eq!(json["model"]["vocab"], fixture::tokenizer_json()["model"]["vocab"]);
        assert_eq!(json["added_tokens"][0]["content"], "<s>");
    }
}
