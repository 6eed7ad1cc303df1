//! From the tree to typed values, with every fault reported at once.
//!
//! serde stops at the first error. So the reader notes the error with its place, takes the offending entry out of
//! the tree and reads again, until what is left reads well: each round finds one more fault, and a fault never
//! hides the next. A field that is missing only because it was taken out is not reported a second time.

use std::collections::HashSet;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::fault::Fault;
use super::tree::{Node, Value};

/// Rounds of reading one document: a file with more faults than this is not a configuration.
const FAULTS_MAX: usize = 100;

/// Which keys a type cannot do without, by the type's name.
type Required<'a> = &'a dyn Fn(&str) -> Vec<String>;

/// Reads `T` from the tree, taking what is at fault out of it. `None` when nothing readable is left.
pub fn read<T: DeserializeOwned>(tree: &mut Node, required: Required<'_>, faults: &mut Vec<Fault>) -> Option<T> {
    let mut taken: HashSet<(usize, String)> = HashSet::new();
    for _ in 0..FAULTS_MAX {
        let trouble = match T::deserialize(&*tree) {
            Ok(value) => return Some(value),
            Err(trouble) => trouble,
        };
        let id = trouble.node.unwrap_or(tree.id);
        let mut trail = Vec::new();
        let found = find(tree, id, &mut trail)?;
        faults.extend(report(&trouble, found, &trail, required, &taken));
        match take(tree, id) {
            Some(entry) => taken.insert(entry),
            None => return None,
        };
    }
    None
}

fn report(trouble: &Trouble, node: &Node, trail: &[String], required: Required<'_>, taken: &HashSet<(usize, String)>) -> Vec<Fault> {
    let fault = |reason: &str, cure: &str| Fault { place: Some(node.place), ..Fault::new(trail.to_vec(), reason, cure) };
    let was_taken = |key: &str| taken.contains(&(node.id, key.to_owned()));
    let keys = match &node.value {
        Value::Faulty => return Vec::new(),
        Value::Map(entries) => entries.iter().filter_map(|(key, _)| key.text()).collect(),
        Value::Plain(_) | Value::Quoted(_) | Value::Substituted(_) | Value::List(_) => Vec::new(),
    };
    if let Some(first) = trouble.missing {
        let mut missing = trouble.of.map(required).unwrap_or_default();
        missing.retain(|key| !keys.contains(&key.as_str()));
        if missing.is_empty() {
            missing.push(first.to_owned());
        }
        missing.retain(|key| !was_taken(key));
        return missing.iter().map(|key| fault(&format!("the key '{key}' is missing"), "add it, it has no default")).collect();
    }
    // A map that makes no sense after a key was taken out of it may have made sense before.
    if matches!(node.value, Value::Map(_)) && !trouble.unknown && taken.iter().any(|(map, _)| *map == node.id) {
        return Vec::new();
    }
    let secret = trail.last().is_some_and(|key| key.contains("secret")) || trail.iter().any(|key| key == "request_headers");
    let text = node.text().filter(|text| !secret && !trouble.unknown && !matches!(resolve(text), Resolved::Nothing));
    vec![fault(&trouble.reason, &trouble.cure).with_text(text.unwrap_or_default())]
}

/// The node with this id and the trail to it.
fn find<'a>(node: &'a Node, id: usize, trail: &mut Vec<String>) -> Option<&'a Node> {
    if node.id == id {
        return Some(node);
    }
    let children: Vec<(String, &Node, &Node)> = match &node.value {
        Value::List(items) => items.iter().enumerate().map(|(i, item)| (i.to_string(), item, item)).collect(),
        Value::Map(entries) => entries.iter().map(|(key, value)| (key.text().unwrap_or("?").to_owned(), key, value)).collect(),
        _ => return None,
    };
    for (step, key, child) in children {
        trail.push(step);
        if key.id == id {
            return Some(key);
        }
        if let Some(found) = find(child, id, trail) {
            return Some(found);
        }
        trail.pop();
    }
    None
}

/// Takes the entry of this node out of its list or map: the id of that map, and the key.
fn take(node: &mut Node, id: usize) -> Option<(usize, String)> {
    match &mut node.value {
        Value::List(items) => {
            if let Some(i) = items.iter().position(|item| item.id == id) {
                items.remove(i);
                return Some((node.id, i.to_string()));
            }
            items.iter_mut().find_map(|item| take(item, id))
        }
        Value::Map(entries) => {
            if let Some(i) = entries.iter().position(|(key, value)| key.id == id || value.id == id) {
                let (key, _) = entries.remove(i);
                return Some((node.id, key.text().unwrap_or_default().to_owned()));
            }
            entries.iter_mut().find_map(|(_, value)| take(value, id))
        }
        _ => None,
    }
}

/// Why a node cannot be read as what it should be.
#[derive(Debug)]
pub struct Trouble {
    node: Option<usize>,
    missing: Option<&'static str>,
    /// The type that misses it.
    of: Option<&'static str>,
    unknown: bool,
    reason: String,
    cure: String,
}

impl Trouble {
    fn at(mut self, node: &Node) -> Self {
        self.node.get_or_insert(node.id);
        self
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.reason, self.cure)
    }
}

impl std::error::Error for Trouble {}

impl de::Error for Trouble {
    /// Our own types say `reason; cure` in one text.
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        let (reason, cure) = message.split_once("; ").unwrap_or((message.as_str(), "see config.example.yaml"));
        Self { node: None, missing: None, of: None, unknown: false, reason: reason.to_owned(), cure: cure.to_owned() }
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let kind = match found {
            de::Unexpected::Bool(_) => "a boolean",
            de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) | de::Unexpected::Float(_) => "a number",
            de::Unexpected::Str(_) => "text",
            de::Unexpected::Unit => "nothing",
            de::Unexpected::Seq => "a list",
            de::Unexpected::Map => "a map",
            _ => "something else",
        };
        let expected = match expected.to_string().as_str() {
            "u32" | "u64" => "a whole number".to_owned(),
            expected if expected.starts_with("struct ") => "a map".to_owned(),
            expected => expected.to_owned(),
        };
        Self::custom(format!("{kind} where {expected} is expected; see config.example.yaml"))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let nearest = expected.iter().find(|name| distance(name, field) <= 2);
        let cure = match nearest {
            Some(name) => format!("did you mean '{name}'?"),
            None => format!("known here: {}", expected.join(", ")),
        };
        Self { unknown: true, ..Self::custom(format!("unknown key; {cure}")) }
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format!("not one of the words that fit here; write one of: {}", expected.join(", ")))
    }

    fn missing_field(field: &'static str) -> Self {
        Self { missing: Some(field), ..Self::custom("a key is missing; add it") }
    }
}

/// Edit distance, for "did you mean".
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != *y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

/// What a scalar without quotes would be to a YAML reader of any version.
enum Resolved<'a> {
    Nothing,
    Bool(bool),
    Integer(i64),
    Float(f64),
    /// `yes`, `off`, `1_000`, `0755`: read differently by YAML 1.1 and 1.2.
    Ambiguous,
    Text(&'a str),
}

fn resolve(text: &str) -> Resolved<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Resolved::Nothing,
        "true" => return Resolved::Bool(true),
        "false" => return Resolved::Bool(false),
        _ => {}
    }
    const WORDS: [&str; 10] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", ".nan"];
    if WORDS.contains(&text.to_ascii_lowercase().as_str()) {
        return Resolved::Ambiguous;
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return Resolved::Text(text);
    }
    if digits.chars().all(|c| c.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0')) {
        return text.parse().map_or(Resolved::Ambiguous, Resolved::Integer);
    }
    if digits.chars().all(|c| c.is_ascii_digit() || c == '_') || digits.starts_with("0x") || digits.starts_with("0o") {
        return Resolved::Ambiguous;
    }
    match text.parse() {
        Ok(number) => Resolved::Float(number),
        Err(_) => Resolved::Text(text),
    }
}

impl Node {
    fn visit<'de, V: Visitor<'de>>(&self, visitor: V, want_text: bool) -> Result<V::Value, Trouble> {
        let done = match &self.value {
            Value::Quoted(text) => visitor.visit_str(text),
            Value::Substituted(text) if want_text => visitor.visit_str(text),
            Value::Plain(text) | Value::Substituted(text) => match resolve(text) {
                Resolved::Text(text) => visitor.visit_str(text),
                Resolved::Ambiguous => Err(de::Error::custom(
                    "YAML readers disagree on what this is; put it in quotes, or write true, false or a plain number",
                )),
                Resolved::Nothing => Err(de::Error::custom("the value is empty; give it one or take the key out")),
                _ if want_text => Err(de::Error::custom("a number or boolean where text is expected; put it in quotes")),
                Resolved::Bool(value) => visitor.visit_bool(value),
                Resolved::Integer(value) => visitor.visit_i64(value),
                Resolved::Float(value) => visitor.visit_f64(value),
            },
            Value::List(items) => visitor.visit_seq(Items(items.iter())),
            Value::Map(entries) => visitor.visit_map(Entries { entries: entries.iter(), value: None }),
            Value::Faulty => Err(de::Error::custom("already reported")),
        };
        done.map_err(|trouble| trouble.at(self))
    }
}

impl<'de> Deserializer<'de> for &Node {
    type Error = Trouble;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.visit(visitor, false)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.visit(visitor, true)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.visit(visitor, true)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Trouble> {
        visitor.visit_newtype_struct(self).map_err(|trouble| trouble.at(self))
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, Trouble> {
        let Some(text) = self.text() else {
            return Err(<Trouble as de::Error>::custom("a list or map where one word is expected; see config.example.yaml").at(self));
        };
        let word: StrDeserializer<'_, Trouble> = text.into_deserializer();
        visitor.visit_enum(word).map_err(|trouble| trouble.at(self))
    }

    fn deserialize_struct<V: Visitor<'de>>(self, name: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, Trouble> {
        if let Value::List(_) = self.value {
            return Err(<Trouble as de::Error>::invalid_type(de::Unexpected::Seq, &"a map").at(self));
        }
        self.visit(visitor, false).map_err(|trouble| match trouble.node == Some(self.id) {
            true => Trouble { of: Some(name), ..trouble },
            false => trouble,
        })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier ignored_any
    }
}

struct Items<'a>(std::slice::Iter<'a, Node>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Trouble;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Trouble> {
        self.0.next().map(|node| seed.deserialize(node).map_err(|trouble| trouble.at(node))).transpose()
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, (Node, Node)>,
    value: Option<&'a Node>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Trouble;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Trouble> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some(value);
        let Some(text) = key.text() else {
            return Err(<Trouble as de::Error>::custom("a list or map as a key; keys are text").at(key));
        };
        let text: StrDeserializer<'_, Trouble> = text.into_deserializer();
        seed.deserialize(text).map(Some).map_err(|trouble| trouble.at(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Trouble> {
        let Some(node) = self.value.take() else { return Err(de::Error::custom("a value without a key; see config.example.yaml")) };
        seed.deserialize(node).map_err(|trouble| trouble.at(node))
    }
}
