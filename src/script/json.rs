//! JSON for scripts, as cjson has it. What is read becomes values of Lua at once: nothing grows outside of their memory.

use std::fmt;

use mlua::{Lua, Table, Value};
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

use super::number::general;

/// How deep arrays and objects may be within each other (cjson: 1,000; serde_json's bound).
const DEPTH_MAX: usize = 127;

/// An array with more holes than values, and an index beyond this, is refused, as by cjson.
const SPARSE_MAX: usize = 10;

/// The value as JSON, of at most so many bytes. The error is a sentence for people.
pub fn encode(value: &Value, most: usize) -> Result<Vec<u8>, String> {
    let mut writer = Writer { json: Vec::new(), most };
    writer.write(value, 0)?;
    Ok(writer.json)
}

struct Writer {
    json: Vec<u8>,
    most: usize,
}

impl Writer {
    fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        let has_room = self.json.len() + bytes.len() <= self.most
            && self.json.try_reserve(bytes.len()).is_ok();
        if !has_room {
            return Err("not enough memory".to_owned());
        }
        self.json.extend_from_slice(bytes);
        Ok(())
    }

    fn write(&mut self, value: &Value, depth: usize) -> Result<(), String> {
        match value {
            Value::Nil => self.push(b"null"),
            null if null.is_null() => self.push(b"null"),
            Value::Boolean(truth) => self.push(truth.to_string().as_bytes()),
            Value::Integer(number) => self.number(*number as f64),
            Value::Number(number) => self.number(*number),
            Value::String(text) => self.text(&text.as_bytes()),
            Value::Table(_) if depth == DEPTH_MAX => {
                Err(format!("Cannot serialise, excessive depth ({})", depth + 1))
            }
            Value::Table(table) => self.table(table, depth + 1),
            other => Err(format!("Cannot serialise {}: type not supported", other.type_name())),
        }
    }

    fn number(&mut self, number: f64) -> Result<(), String> {
        match number.is_finite() {
            true => self.push(general(number, 14).as_bytes()),
            false => Err("Cannot serialise number: must not be NaN or Inf".to_owned()),
        }
    }

    fn text(&mut self, text: &[u8]) -> Result<(), String> {
        self.push(b"\"")?;
        for byte in text {
            match byte {
                b'"' => self.push(b"\\\"")?,
                b'\\' => self.push(b"\\\\")?,
                b'/' => self.push(b"\\/")?,
                0x08 => self.push(b"\\b")?,
                0x0c => self.push(b"\\f")?,
                b'\n' => self.push(b"\\n")?,
                b'\r' => self.push(b"\\r")?,
                b'\t' => self.push(b"\\t")?,
                0x00..0x20 | 0x7f => self.push(format!("\\u{byte:04x}").as_bytes())?,
                byte => self.push(&[*byte])?,
            }
        }
        self.push(b"\"")
    }

    fn table(&mut self, table: &Table, depth: usize) -> Result<(), String> {
        if let Some(length) = array_length(table)? {
            self.push(b"[")?;
            for place in 1..=length {
                if place > 1 {
                    self.push(b",")?;
                }
                let value = table.raw_get(place).map_err(|error| error.to_string())?;
                self.write(&value, depth)?;
            }
            return self.push(b"]");
        }
        self.push(b"{")?;
        for (count, pair) in table.pairs::<Value, Value>().enumerate() {
            let (key, value) = pair.map_err(|error| error.to_string())?;
            if count > 0 {
                self.push(b",")?;
            }
            match &key {
                Value::String(text) => self.text(&text.as_bytes())?,
                Value::Integer(number) => self.text(number.to_string().as_bytes())?,
                Value::Number(number) => self.text(general(*number, 14).as_bytes())?,
                _ => {
                    let reason = "Cannot serialise table: table key must be a number or string";
                    return Err(reason.to_owned());
                }
            }
            self.push(b":")?;
            self.write(&value, depth)?;
        }
        self.push(b"}")
    }
}

/// The greatest key of a table all of whose keys are numbers of places, if it has any.
fn array_length(table: &Table) -> Result<Option<usize>, String> {
    let (mut length, mut count) = (0, 0);
    for pair in table.pairs::<Value, Value>() {
        let place = match pair.map_err(|error| error.to_string())?.0 {
            Value::Integer(place) if place > 0 => place as usize,
            Value::Number(place) if place >= 1.0 && place.fract() == 0.0 => place as usize,
            _ => return Ok(None),
        };
        length = length.max(place);
        count += 1;
    }
    if length > SPARSE_MAX && length / 2 > count {
        return Err("Cannot serialise table: excessively sparse array".to_owned());
    }
    Ok(Some(length).filter(|length| *length > 0))
}

/// The value that `json` is. The error is a sentence for people.
pub fn decode(lua: &Lua, json: &[u8]) -> Result<Value, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = ToLua(lua).deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// Makes values of Lua.
#[derive(Clone, Copy)]
struct ToLua<'l>(&'l Lua);

impl<'de> DeserializeSeed<'de> for ToLua<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ToLua<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::NULL)
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Boolean(truth))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.0.create_string(text).map(Value::String).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Value, A::Error> {
        let table = self.0.create_table().map_err(A::Error::custom)?;
        let mut place = 0;
        while let Some(value) = values.next_element_seed(self)? {
            place += 1;
            table.raw_set(place, value).map_err(A::Error::custom)?;
        }
        Ok(Value::Table(table))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Value, A::Error> {
        let table = self.0.create_table().map_err(A::Error::custom)?;
        while let Some(key) = pairs.next_key_seed(self)? {
            let value = pairs.next_value_seed(self)?;
            table.raw_set(key, value).map_err(A::Error::custom)?;
        }
        Ok(Value::Table(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(json: &str) -> String {
        let lua = Lua::new();
        let value = decode(&lua, json.as_bytes()).unwrap();
        String::from_utf8(encode(&value, 1 << 20).unwrap()).unwrap()
    }

    #[test]
    fn json_is_what_cjson_writes() {
        for json in ["[1,2.5,true,false,null,\"a\\/b\\n\\u0001\"]", "{\"a\":{\"b\":[1]}}", "{}"] {
            assert_eq!(round_trip(json), json);
        }
        assert_eq!(round_trip("[]"), "{}", "an empty table tells no difference");
        assert_eq!(round_trip("12345678901234567890"), "1.2345678901235e+19");
    }

    #[test]
    fn what_cannot_be_json_is_an_error() {
        let lua = Lua::new();
        let error = |source: &str| encode(&lua.load(source).eval().unwrap(), 150).unwrap_err();
        assert_eq!(error("return print"), "Cannot serialise function: type not supported");
        assert_eq!(error("return 0/0"), "Cannot serialise number: must not be NaN or Inf");
        assert_eq!(
            error("local t = {} t[1000] = 1 return t"),
            "Cannot serialise table: excessively sparse array"
        );
        assert_eq!(error("return ('x'):rep(200)"), "not enough memory");
        let deep = "local t = {} for _ = 1, 200 do t = {t} end return t";
        assert_eq!(error(deep), "Cannot serialise, excessive depth (128)");
        for json in ["", "[1", "[1]x", "\"\\x\"", "nope", &"[".repeat(100_000)] {
            assert!(decode(&lua, json.as_bytes()).is_err());
        }
    }
}
