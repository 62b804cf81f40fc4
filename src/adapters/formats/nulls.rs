//! Nulls in configurations, which mean the default.

use serde_json::Value;

/// Returns `json` without the fields that are null; nested objects too.
pub(super) fn without_nulls(json: &Value) -> Value {
    match json.as_object() {
        Some(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        None => json.clone(),
    }
}
