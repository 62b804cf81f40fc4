//! The fields of events as data, with which Python's classes are compared.

use std::path::PathBuf;

use serde::Serialize;

/// Declaration of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Declaration {
    /// Name of the variant; its snake case is `"event"` in JSON.
    pub name: &'static str,
    /// In the order of the JSON.
    pub fields: &'static [Field],
}

/// Declaration of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Field {
    /// Key in JSON.
    pub name: &'static str,
    /// Type in Python.
    pub kind: Kind,
    /// Whether it may be `null`.
    pub optional: bool,
}

impl Field {
    /// A field of type `T`.
    pub(super) const fn of<T: Value>(name: &'static str) -> Self {
        Self { name, kind: T::KIND, optional: T::OPTIONAL }
    }
}

/// Type of a field in Python.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A whole number.
    Int,
    /// Any number.
    Float,
    /// Text; paths are text, too.
    Str,
}

/// Rust types that fields may have.
pub(super) trait Value {
    /// Type in Python.
    const KIND: Kind;
    /// Whether it may be missing.
    const OPTIONAL: bool = false;
}

impl Value for u64 {
    const KIND: Kind = Kind::Int;
}

impl Value for usize {
    const KIND: Kind = Kind::Int;
}

impl Value for f64 {
    const KIND: Kind = Kind::Float;
}

impl Value for String {
    const KIND: Kind = Kind::Str;
}

impl Value for PathBuf {
    const KIND: Kind = Kind::Str;
}

impl<T: Value> Value for Option<T> {
    const KIND: Kind = T::KIND;
    const OPTIONAL: bool = true;
}

/// Defines a struct that an event may hold, with its `FIELDS`.
macro_rules! record {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$doc:meta])* pub $field:ident: $kind:ty,)+ }) => {
        $(#[$meta])*
        pub struct $name { $($(#[$doc])* pub $field: $kind,)+ }

        impl $name {
            const FIELDS: &'static [Field] = &[$(Field::of::<$kind>(stringify!($field))),+];
        }
    };
}

/// Defines the enum of events, with its `DECLARATIONS`; a variant has fields, or holds a [`record`].
macro_rules! events {
    ($(#[$meta:meta])* pub enum $name:ident {
        $(
            $(#[$doc:meta])*
            $event:ident
            $({ $($(#[$field_doc:meta])* $field:ident: $kind:ty,)+ })?
            $(($record:ident))?,
        )+
    }) => {
        $(#[$meta])*
        pub enum $name {
            $(
                $(#[$doc])*
                $event $({ $($(#[$field_doc])* $field: $kind,)+ })? $(($record))?,
            )+
        }

        impl $name {
            /// Every event and its fields, in the order of the variants.
            pub const DECLARATIONS: &'static [Declaration] = &[$(
                Declaration {
                    name: stringify!($event),
                    fields: $(&[$(Field::of::<$kind>(stringify!($field))),+])? $($record::FIELDS)?,
                }
            ),+];
        }
    };
}

pub(super) use {events, record};
