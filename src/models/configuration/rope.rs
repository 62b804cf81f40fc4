//! Rotations, by the keys `rope_scaling` and `rope_parameters`.

use serde_json::{Map, Value, json};

use super::{Family, RopeKeys, unexpected};
use crate::io::config;
use crate::nn::Rope;
use crate::nn::rope_scaling::RopeScaling;
use crate::{Error, Result};

const ORIGINAL: &str = "original_max_position_embeddings";
const PARTIAL: &str = "partial_rotary_factor";

/// Rotations of a model.
#[derive(Debug, Clone)]
pub(super) struct Rotations {
    /// Of all layers, or of those that do not slide.
    pub(super) full: Rope,
    /// Of sliding layers, if they have one of their own.
    pub(super) sliding: Option<Rope>,
}

/// Keys of one rotation.
struct Source<'a> {
    json: &'a Value,
    family: &'a Family,
    head_dim: i32,
    /// Where the fields stand, for errors.
    place: &'a str,
    fields: Map<String, Value>,
    /// Key of the file and value that stand for an absent `rope_theta`.
    theta: (&'a str, f64),
}

/// Returns the rotations of heads of dimension `head_dim`.
///
/// # Errors
/// An unknown method; a key that is missing, of the wrong type or out of range.
pub(super) fn parse(json: &Value, family: &Family, head_dim: i32) -> Result<Rotations> {
    let source = |place, fields, theta| Source { json, family, head_dim, place, fields, theta };
    let shared_theta = ("rope_theta", family.rope_theta);
    if matches!(family.rope, RopeKeys::PerLayerType) {
        let [full, sliding] = layer_rotations(json)?;
        let full = source("rope_parameters.full_attention", full, shared_theta).rope()?;
        let local_theta = ("rope_local_base_freq", 10_000.0);
        let sliding = source("rope_parameters.sliding_attention", sliding, local_theta).rope()?;
        return Ok(Rotations { full, sliding: Some(sliding) });
    }
    let (place, fields) = shared(json, family)?;
    if let Some((key, _)) = fields.iter().find(|(_, value)| value.is_object()) {
        return Err(Error::ModelLoading(format!(
            "\"{place}\" has an entry \"{key}\" of its own, but all layers of this family share one rotation"
        )));
    }
    Ok(Rotations { full: source(place, fields, shared_theta).rope()?, sliding: None })
}

/// Returns the parameters of the only rotation, and the key that they stand under.
pub(super) fn shared(json: &Value, family: &Family) -> Result<(&'static str, Map<String, Value>)> {
    let scaling = object(json, "rope_scaling")?.filter(|fields| !fields.is_empty());
    Ok(match (scaling, object(json, "rope_parameters")?, family.rope) {
        (Some(fields), ..) => ("rope_scaling", fields.clone()),
        (None, Some(fields), _) => ("rope_parameters", fields.clone()),
        (None, None, RopeKeys::SharedOr(default)) => ("rope_parameters", default()),
        (None, None, _) => ("rope_parameters", Map::new()),
    })
}

/// Returns the parameters of full and of sliding attention.
pub(super) fn layer_rotations(json: &Value) -> Result<[Map<String, Value>; 2]> {
    let given = object(json, "rope_parameters")?;
    let entry = |kind: &str| match given.and_then(|given| given.get(kind)) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(fields)) => Ok(Some(fields.clone())),
        Some(other) => Err(unexpected(&format!("rope_parameters.{kind}"), other, "an object")),
    };
    let default = || Map::from_iter([("rope_type".to_owned(), "default".into())]);
    let mut full = entry("full_attention")?;
    if let Some(scaling) = object(json, "rope_scaling")? {
        if given.is_some() && full.is_none() {
            return Err(Error::ModelLoading(
                "\"rope_scaling\" changes \"rope_parameters.full_attention\", which is missing".to_owned(),
            ));
        }
        full.get_or_insert_with(default).extend(scaling.clone());
    }
    let layers = [full.unwrap_or_else(default), entry("sliding_attention")?.unwrap_or_else(default)];
    let truncate = given.and_then(|given| given.get("truncate"));
    Ok(layers.map(|mut fields| {
        match truncate {
            Some(truncate) => drop(fields.insert("truncate".into(), truncate.clone())),
            None => drop(fields.remove("truncate")),
        }
        fields
    }))
}

fn object<'a>(json: &'a Value, key: &str) -> Result<Option<&'a Map<String, Value>>> {
    match &json[key] {
        Value::Null => Ok(None),
        Value::Object(fields) => Ok(Some(fields)),
        other => Err(unexpected(key, other, "an object")),
    }
}

/// Whether `value` is absent, `null` or zero.
fn is_falsy(value: Option<&Value>) -> bool {
    value.is_none_or(|value| value.is_null() || value.as_f64() == Some(0.0))
}

impl Source<'_> {
    fn rope(self) -> Result<Rope> {
        let theta = match self.fields.get("rope_theta") {
            Some(value) => self.number("rope_theta", value)?,
            None => number(self.json, self.theta.0, self.theta.1)?,
        };
        if !(theta.is_finite() && theta > 1.0) {
            return Err(Error::ModelLoading(format!("\"rope_theta\" is {theta}, expected more than 1")));
        }
        let method = self.method()?;
        let dims = self.dims(&method)?;
        let scaling = self.scaling(&method)?;
        if let Some(key) = scaling.invalid_key(dims) {
            return Err(Error::ModelLoading(format!(
                "\"{}\": \"{key}\" is not possible for {method} and {dims} rotated elements: {scaling:?}",
                self.place
            )));
        }
        Ok(Rope::new(self.head_dim, dims, theta, &scaling))
    }

    fn number(&self, key: &str, value: &Value) -> Result<f64> {
        value.as_f64().ok_or_else(|| unexpected(&format!("{}.{key}", self.place), value, "a number"))
    }

    fn method(&self) -> Result<String> {
        let method = match self.fields.get("rope_type").or_else(|| self.fields.get("type")) {
            None => "default",
            Some(Value::String(name)) => name,
            Some(other) => return Err(unexpected(&format!("{}.rope_type", self.place), other, "a string")),
        };
        let supported = match (self.family.rope, method) {
            // Names that Phi-3 had for it.
            (RopeKeys::Partial, "su" | "yarn") => return Ok("longrope".to_owned()),
            (RopeKeys::Partial, _) => &["default", "longrope"][..],
            _ => &["default", "dynamic", "linear", "llama3", "longrope", "yarn"],
        };
        if !supported.contains(&method) {
            return Err(Error::ModelLoading(format!(
                "\"{}\": \"rope_type\" is \"{method}\", but this family has {} only",
                self.place,
                supported.join(", ")
            )));
        }
        Ok(method.to_owned())
    }

    /// Number of rotated elements of each head.
    fn dims(&self, method: &str) -> Result<i32> {
        if method == "default" && !matches!(self.family.rope, RopeKeys::Partial) {
            return Ok(self.head_dim);
        }
        let partial = match self.fields.get(PARTIAL) {
            Some(value) => self.number(PARTIAL, value)?,
            None if self.json[PARTIAL].is_null() => 1.0,
            None => number(self.json, PARTIAL, 1.0)?,
        };
        let dims = (f64::from(self.head_dim) * partial) as i32;
        match self.family.rope {
            RopeKeys::Partial if partial <= 1.0 && dims >= 2 && dims % 2 == 0 => Ok(dims),
            RopeKeys::Partial => Err(Error::ModelLoading(format!(
                "\"{PARTIAL}\" {partial} of \"head_dim\" {} is {dims}, expected an even number",
                self.head_dim
            ))),
            _ if dims == self.head_dim => Ok(dims),
            _ => Err(Error::ModelLoading(format!(
                "\"{PARTIAL}\" is {partial}, but this family rotates whole heads"
            ))),
        }
    }

    fn scaling(&self, method: &str) -> Result<RopeScaling> {
        let mut fields = self.fields.clone();
        let longest =
            number(self.json, "max_position_embeddings", self.family.max_position_embeddings as f64)?;
        if matches!(method, "llama3" | "yarn" | "longrope")
            && let Some(original) = self.original(longest)
        {
            fields.insert(ORIGINAL.into(), original);
        }
        let has_ratio = match method {
            "longrope" => fields.get("factor").is_none_or(Value::is_null),
            "yarn" => fields.get("factor").is_some_and(Value::is_null),
            _ => false,
        };
        if has_ratio && let Some(original) = fields.get(ORIGINAL).and_then(Value::as_f64) {
            fields.insert("factor".into(), (longest / original).into());
        }
        let fields = match method {
            "dynamic" => json!({"factor": fields.get("factor"), "max_position_embeddings": longest}),
            "yarn" => with_yarn_defaults(fields),
            _ => fields.into(),
        };
        let scaling = match method {
            "default" => Ok(RopeScaling::Default),
            "linear" => config::parse(&fields).map(RopeScaling::Linear),
            "dynamic" => config::parse(&fields).map(RopeScaling::Dynamic),
            "llama3" => config::parse(&fields).map(RopeScaling::Llama3),
            "yarn" => config::parse(&fields).map(RopeScaling::Yarn),
            _ => config::parse(&fields).map(RopeScaling::Longrope),
        };
        scaling.map_err(|error| Error::ModelLoading(format!("\"{}\": {error}", self.place)))
    }

    /// The original length; `None` for that of the fields.
    fn original(&self, longest: f64) -> Option<Value> {
        let of_file = match self.family.rope {
            RopeKeys::PerLayerType => None,
            RopeKeys::Partial => Some(self.json.get(ORIGINAL).cloned().unwrap_or_else(|| 4096.into())),
            _ => self.json.get(ORIGINAL).cloned(),
        };
        let is_missing = !self.fields.contains_key(ORIGINAL);
        of_file.or_else(|| is_missing.then(|| longest.into()))
    }
}

fn number(json: &Value, key: &str, default: f64) -> Result<f64> {
    match json.get(key) {
        None => Ok(default),
        Some(value) => value.as_f64().ok_or_else(|| unexpected(key, value, "a number")),
    }
}

/// Removes values that stand for the defaults of `YaRN`.
fn with_yarn_defaults(mut fields: Map<String, Value>) -> Value {
    for key in ["beta_fast", "beta_slow"] {
        if is_falsy(fields.get(key)) {
            fields.remove(key);
        }
    }
    if is_falsy(fields.get("mscale")) || is_falsy(fields.get("mscale_all_dim")) {
        fields.remove("mscale");
        fields.remove("mscale_all_dim");
    }
    if let Some(truncate) = fields.get_mut("truncate").filter(|truncate| truncate.is_null()) {
        *truncate = false.into();
    }
    fields.into()
}
