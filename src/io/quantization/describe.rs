//! The `quantization` of a `config.json`, as MLX writes it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::kernels::quantized::Format;

/// Describes layers in these `formats`: the most frequent one for all, and by name those that differ.
#[must_use]
pub fn describe(formats: &BTreeMap<String, Format>) -> Value {
    let count = |format: &Format| formats.values().filter(|other| *other == format).count();
    let Some(default) = formats.values().max_by_key(|format| count(format)) else { return json!({}) };
    let different = formats.iter().filter(|(_, format)| *format != default);
    let layers = different.map(|(name, format)| (name.clone(), Value::Object(fields(*format))));
    let mut description = fields(*default);
    description.extend(layers);
    Value::Object(description)
}

fn fields(format: Format) -> Map<String, Value> {
    let mode = json!(format.mode().name());
    let fields = [("group_size", json!(format.group_size())), ("bits", json!(format.bits())), ("mode", mode)];
    fields.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::quantization::QuantizationConfig;

    #[test]
    fn what_is_written_is_read_back() {
        let four = Format::affine(4, 64).unwrap();
        let eight = Format::affine(8, 32).unwrap();
        let floats = [("d", Format::MXFP4), ("e", Format::MXFP8), ("f", Format::NVFP4)];
        let formats =
            [("a", four), ("b", four), ("g", four), ("h", four), ("c", eight)].into_iter().chain(floats);
        let formats: BTreeMap<String, Format> =
            formats.map(|(name, format)| (name.to_owned(), format)).collect();
        let description = describe(&formats);
        assert_eq!((&description["bits"], &description["a"]), (&json!(4), &Value::Null));
        let config = QuantizationConfig::parse(&json!({ "quantization": description })).unwrap();
        for (name, format) in formats {
            assert_eq!(config.format_of(&name, ""), Some(format), "{name}");
        }
    }
}
