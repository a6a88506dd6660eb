//! The name of a member of an object, read as bytes: a name may hold half of a surrogate pair (`"\ud83d"`), which is valid
//! JSON (RFC 8259, section 8.2) and no text.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Visitor};

/// A name, as what it means here.
pub(super) struct Name<T>(pub(super) T);

impl<'de, T: for<'a> From<&'a [u8]>> Deserialize<'de> for Name<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(NameVisitor(PhantomData))
    }
}

struct NameVisitor<T>(PhantomData<T>);

impl<T: for<'a> From<&'a [u8]>> Visitor<'_> for NameVisitor<T> {
    type Value = Name<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Name(name.as_bytes().into()))
    }

    fn visit_bytes<E>(self, name: &[u8]) -> Result<Self::Value, E> {
        Ok(Name(name.into()))
    }
}
