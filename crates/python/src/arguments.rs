//! Arguments from Python whose wrong values are errors of the toolkit.

use efficientai_toolkit::{Error, Result};
use pyo3::exceptions::{PyException, PyOverflowError, PyUnicodeEncodeError};
use pyo3::inspect::PyStaticExpr;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict as _, PyAny, PyString};
use pyo3::{Borrowed, type_hint_identifier, type_hint_subscript, type_hint_union};
use serde_json::{Map, Value};

use super::error::config_error;

/// Text that UTF-8 can express.
pub(super) struct Text(pub(super) String);

impl<'a, 'py> FromPyObject<'a, 'py> for Text {
    type Error = PyErr;

    const INPUT_TYPE: PyStaticExpr = <String as FromPyObject>::INPUT_TYPE;

    fn extract(text: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        text.extract().map(Self).map_err(|error| {
            if error.is_instance_of::<PyUnicodeEncodeError>(text.py()) {
                config_error(format!(
                    "the text holds half of a surrogate pair, which is no character ({error}); remove it, for example \
                     with text.encode(errors=\"replace\").decode()"
                ))
            } else {
                error
            }
        })
    }
}

/// A whole number; those beyond 64 bits become the nearest.
#[derive(Clone, Copy)]
pub(super) struct Integer(pub(super) i64);

impl<'a, 'py> FromPyObject<'a, 'py> for Integer {
    type Error = PyErr;

    const INPUT_TYPE: PyStaticExpr = <i64 as FromPyObject>::INPUT_TYPE;

    fn extract(number: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        match number.extract() {
            Err(error) if PyErr::is_instance_of::<PyOverflowError>(&error, number.py()) => {
                Ok(Self(if number.lt(0)? { i64::MIN } else { i64::MAX }))
            }
            other => other.map(Self),
        }
    }
}

impl Integer {
    /// The number that the argument `name` counts something with.
    ///
    /// # Errors
    /// [`Error::Config`] for a negative number.
    pub(super) fn count(self, name: &str) -> Result<usize> {
        let wrong = |_| Error::Config(format!("{name} is {}, but must not be negative", self.0));
        usize::try_from(self.0).map_err(wrong)
    }
}

/// Token ids, from any sequence of whole numbers.
pub(super) struct TokenIds(pub(super) Vec<u32>);

impl<'a, 'py> FromPyObject<'a, 'py> for TokenIds {
    type Error = PyErr;

    const INPUT_TYPE: PyStaticExpr = <Vec<u32> as FromPyObject>::INPUT_TYPE;

    fn extract(ids: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let ids: Vec<Integer> = ids.extract()?;
        let id = |Integer(id): &Integer| {
            u32::try_from(*id).map_err(|_| config_error(format!("ids hold {id}, expected 0 to {}", u32::MAX)))
        };
        ids.iter().map(id).collect::<PyResult<_>>().map(Self)
    }
}

/// What a text is generated after.
pub(super) enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

impl<'a, 'py> FromPyObject<'a, 'py> for Prompt {
    type Error = PyErr;

    const INPUT_TYPE: PyStaticExpr = type_hint_union!(Text::INPUT_TYPE, TokenIds::INPUT_TYPE);

    fn extract(prompt: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if prompt.is_instance_of::<PyString>() {
            prompt.extract().map(|Text(text)| Self::Text(text))
        } else {
            prompt.extract().map(|TokenIds(ids)| Self::Ids(ids))
        }
    }
}

/// One text, or several.
pub(super) enum Texts {
    One(Text),
    Several(Vec<Text>),
}

impl<'a, 'py> FromPyObject<'a, 'py> for Texts {
    type Error = PyErr;

    const INPUT_TYPE: PyStaticExpr = type_hint_union!(Text::INPUT_TYPE, <Vec<Text>>::INPUT_TYPE);

    fn extract(texts: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if texts.is_instance_of::<PyString>() {
            texts.extract().map(Self::One)
        } else {
            texts.extract().map(Self::Several)
        }
    }
}

/// Hint of the type `Mapping[str, Any]`.
const MAPPING: PyStaticExpr = type_hint_subscript!(
    type_hint_identifier!("collections.abc", "Mapping"),
    type_hint_identifier!("builtins", "str"),
    type_hint_identifier!("typing", "Any")
);

/// A dictionary of what JSON can express.
pub(super) struct Dictionary<'py>(Bound<'py, PyAny>);

impl<'a, 'py> FromPyObject<'a, 'py> for Dictionary<'py> {
    type Error = PyErr;

    const INPUT_TYPE: PyStaticExpr = MAPPING;

    fn extract(dictionary: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(dictionary.to_owned()))
    }
}

impl Dictionary<'_> {
    /// The dictionary of the argument `name`, as JSON.
    ///
    /// # Errors
    /// `ConfigError` for anything else.
    pub(super) fn read(&self, name: &str) -> PyResult<Map<String, Value>> {
        match to_json(&self.0, name)? {
            Value::Object(map) => Ok(map),
            other => Err(config_error(format!("{name} is {other}, expected a dictionary"))),
        }
    }
}

/// A list of dictionaries, such as messages.
pub(super) struct Dictionaries<'py>(Bound<'py, PyAny>);

impl<'a, 'py> FromPyObject<'a, 'py> for Dictionaries<'py> {
    type Error = PyErr;

    const INPUT_TYPE: PyStaticExpr =
        type_hint_subscript!(type_hint_identifier!("collections.abc", "Sequence"), MAPPING);

    fn extract(list: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(list.to_owned()))
    }
}

impl Dictionaries<'_> {
    /// The list of the argument `name`, as JSON.
    ///
    /// # Errors
    /// `ConfigError` for anything but a list of dictionaries of what JSON can express.
    pub(super) fn read(&self, name: &str) -> PyResult<Vec<Value>> {
        let expected = "expected a list of dictionaries";
        if self.0.is_instance_of::<PyString>() {
            return Err(config_error(format!("{name} is a text, {expected}")));
        }
        let list = self.0.py().import("builtins")?.call_method1("list", (&self.0,));
        let list = list.map_err(|error| config_error(format!("{name}: {error}, {expected}")))?;
        let Value::Array(items) = to_json(&list, name)? else { return Ok(Vec::new()) };
        match items.iter().position(|item| !item.is_object()) {
            Some(index) => Err(config_error(format!("{name}[{index}] is {}, {expected}", items[index]))),
            None => Ok(items),
        }
    }
}

/// `object`, the argument `name`, as JSON.
///
/// # Errors
/// `ConfigError` if JSON cannot express it.
pub(super) fn to_json(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Value> {
    let py = object.py();
    let options = [("allow_nan", false)].into_py_dict(py)?;
    let text = py.import("json")?.call_method("dumps", (object,), Some(&options));
    let text: String = match text {
        Ok(text) => text.extract()?,
        Err(error) if error.is_instance_of::<PyException>(py) => {
            return Err(config_error(format!("{name}: {}", error.value(py))));
        }
        Err(error) => return Err(error),
    };
    serde_json::from_str(&text).map_err(|error| {
        // The text is ours: its lines tell the caller nothing.
        let reason = error.to_string();
        config_error(format!("{name}: {}", reason.split(" at line ").next().unwrap_or_default()))
    })
}
