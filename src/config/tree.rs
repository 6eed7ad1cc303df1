//! The document as a tree in which every value knows its line and column.
//!
//! The parser's events become nodes here; duplicate keys, aliases that explode, missing environment variables and
//! depth are found while building, so that what follows sees a finite tree without surprises.

use std::collections::HashMap;

use serde_yaml::granit_parser::{Event, Parser, ScalarStyle, Span};

use super::fault::{Fault, Place, Trail};

/// Nodes of one document, aliases expanded: far above any real configuration, far below what hurts.
const NODES_MAX: usize = 50_000;
/// Levels of nesting in one document.
const DEPTH_MAX: usize = 32;

#[derive(Debug, Clone)]
pub struct Node {
    /// Unique in its tree, so that a fault can name its node.
    pub id: usize,
    pub place: Place,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub enum Value {
    /// A scalar without quotes: its type follows from its text.
    Plain(String),
    /// A scalar in quotes or a block scalar: always a string.
    Quoted(String),
    /// A scalar that an environment variable went into: whatever type is asked for.
    Substituted(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    /// Already reported as a fault; whoever reads it says nothing more.
    Faulty,
}

impl Node {
    /// Where the value that a trail leads to stands, or the nearest thing above it. When `text` is not the value's, it
    /// is the key that is meant.
    pub fn place_of(&self, trail: &[String], text: &str) -> Place {
        let Some((step, rest)) = trail.split_first() else { return self.place };
        match &self.value {
            Value::List(items) => {
                step.parse::<usize>().ok().and_then(|i| items.get(i)).map_or(self.place, |node| node.place_of(rest, text))
            }
            Value::Map(entries) => match entries.iter().find(|(key, _)| key.text() == Some(step)) {
                Some((key, value)) if rest.is_empty() && value.text() != Some(text) => key.place,
                Some((_, value)) => value.place_of(rest, text),
                None => self.place,
            },
            Value::Plain(_) | Value::Quoted(_) | Value::Substituted(_) | Value::Faulty => self.place,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Plain(text) | Value::Quoted(text) | Value::Substituted(text) => Some(text),
            Value::List(_) | Value::Map(_) | Value::Faulty => None,
        }
    }
}

/// Looks up an environment variable; an argument, so that reading a document stays free of the machine.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Builds the tree of one document. Faults that leave a usable tree are added to `faults`; a document that is no
/// YAML at all has no tree.
pub fn parse(text: &str, environment: Environment<'_>, faults: &mut Vec<Fault>) -> Option<Node> {
    let mut builder = Builder { environment, faults, anchors: HashMap::new(), nodes: 0 };
    let mut events = Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    match builder.document(&mut events) {
        Ok(node) => Some(node),
        Err(fault) => {
            builder.faults.push(*fault);
            None
        }
    }
}

type Events<'a, 'input> = &'a mut dyn Iterator<Item = Result<(Event<'input>, Span), serde_yaml::granit_parser::ScanError>>;

struct Builder<'a> {
    environment: Environment<'a>,
    faults: &'a mut Vec<Fault>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl Builder<'_> {
    fn document(&mut self, events: Events<'_, '_>) -> Result<Node, Box<Fault>> {
        let mut root = None;
        loop {
            match next(events)? {
                (Event::StreamEnd, _) => break,
                (Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd, _) => {}
                (event, span) if root.is_none() => root = Some(self.node(event, span, events, &mut Vec::new())?),
                (_, span) => {
                    return Err(stop(place(&span), "a second document", "keep one document a file, without `---` in between"));
                }
            }
        }
        root.ok_or_else(|| stop(Place { line: 1, column: 1 }, "the document is empty", "start from config.example.yaml"))
    }

    fn node(&mut self, event: Event<'_>, span: Span, events: Events<'_, '_>, trail: &mut Trail) -> Result<Node, Box<Fault>> {
        let place = place(&span);
        if trail.len() >= DEPTH_MAX {
            return Err(stop(place, "nested too deeply", "a configuration has at most a handful of levels"));
        }
        let id = self.count(place)?;
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, _) => (anchor, self.scalar(&text, style, place, trail)),
            Event::SequenceStart(_, anchor, _) => (anchor, self.list(events, trail)?),
            Event::MappingStart(_, anchor, _) => (anchor, self.map(events, trail)?),
            Event::Alias(target) => return self.alias(target, place),
            _ => return Err(stop(place, "something that is no YAML value", "see config.example.yaml")),
        };
        let node = Node { id, place, value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, events: Events<'_, '_>, trail: &mut Trail) -> Result<Value, Box<Fault>> {
        let mut items = Vec::new();
        loop {
            let (event, span) = next(events)?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::List(items));
            }
            trail.push(items.len().to_string());
            let item = self.node(event, span, events, trail);
            trail.pop();
            items.push(item?);
        }
    }

    fn map(&mut self, events: Events<'_, '_>, trail: &mut Trail) -> Result<Value, Box<Fault>> {
        let mut entries: Vec<(Node, Node)> = Vec::new();
        loop {
            let (event, span) = next(events)?;
            if matches!(event, Event::MappingEnd) {
                return Ok(Value::Map(entries));
            }
            let key = self.node(event, span, events, trail)?;
            trail.push(key.text().unwrap_or("?").to_owned());
            let (event, span) = next(events)?;
            let value = self.node(event, span, events, trail);
            let name = trail.pop().unwrap_or_default();
            if let Some((first, _)) = entries.iter().find(|(other, _)| other.text() == key.text()) {
                let reason = format!("this key stands here twice, first on line {}", first.place.line);
                let mut at = trail.clone();
                at.push(name);
                self.faults.push(Fault { place: Some(key.place), ..Fault::new(at, reason, "keep one of the two") });
                value?;
            } else {
                entries.push((key, value?));
            }
        }
    }

    fn alias(&mut self, target: usize, place: Place) -> Result<Node, Box<Fault>> {
        let Some(node) = self.anchors.get(&target).cloned() else {
            return Err(stop(place, "an alias that stands inside its own anchor", "write the value out"));
        };
        self.renumber(node, place)
    }

    /// A copy under an alias: new ids, counted, at the place where it is used.
    fn renumber(&mut self, mut node: Node, place: Place) -> Result<Node, Box<Fault>> {
        node.id = self.count(place)?;
        node.value = match node.value {
            Value::List(items) => Value::List(items.into_iter().map(|item| self.renumber(item, place)).collect::<Result<_, _>>()?),
            Value::Map(entries) => Value::Map(
                entries.into_iter().map(|(key, value)| Ok((self.renumber(key, place)?, self.renumber(value, place)?))).collect::<Result<
                    _,
                    Box<Fault>,
                >>(
                )?,
            ),
            scalar => scalar,
        };
        node.place = place;
        Ok(node)
    }

    fn count(&mut self, place: Place) -> Result<usize, Box<Fault>> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            let reason = format!("more than {NODES_MAX} values once aliases are expanded");
            return Err(stop(place, &reason, "write the values out instead of nesting aliases"));
        }
        Ok(self.nodes)
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, place: Place, trail: &Trail) -> Value {
        match substitute(text, self.environment) {
            Ok(None) if matches!(style, ScalarStyle::Plain) => Value::Plain(text.to_owned()),
            Ok(None) => Value::Quoted(text.to_owned()),
            Ok(Some(text)) => Value::Substituted(text),
            Err(Missing(name)) => {
                let cure = format!("set it, or write ${{{name}:-default}}");
                let reason = format!("the environment variable {name} is not set");
                self.faults.push(Fault { place: Some(place), ..Fault::new(trail.clone(), reason, cure) });
                Value::Faulty
            }
        }
    }
}

struct Missing(String);

/// Replaces `${NAME}` and `${NAME:-default}` by values of the environment; `$${` stands for a literal `${`.
/// It works on one scalar, after parsing: what a variable holds can never become YAML structure.
fn substitute(text: &str, environment: Environment<'_>) -> Result<Option<String>, Missing> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('}') else { break };
        let inside = &rest[at + 2..at + end];
        let (name, fallback) = match inside.split_once(":-") {
            Some((name, fallback)) => (name, Some(fallback)),
            None => (inside, None),
        };
        match environment(name).filter(|value| fallback.is_none() || !value.is_empty()) {
            Some(value) => out.push_str(&value),
            None => out.push_str(fallback.ok_or_else(|| Missing(name.to_owned()))?),
        }
        rest = &rest[at + end + 1..];
    }
    out.push_str(rest);
    Ok(Some(out))
}

fn next<'input>(events: Events<'_, 'input>) -> Result<(Event<'input>, Span), Box<Fault>> {
    match events.next() {
        Some(Ok(found)) => Ok(found),
        Some(Err(error)) => {
            let at = Place { line: error.marker().line(), column: error.marker().col() + 1 };
            Err(stop(at, &format!("no valid YAML: {}", error.info()), "see config.example.yaml for the shape"))
        }
        None => Err(stop(Place::default(), "the document ends too early", "see config.example.yaml for the shape")),
    }
}

fn place(span: &Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1 }
}

fn stop(place: Place, reason: &str, cure: &str) -> Box<Fault> {
    Box::new(Fault { place: Some(place), ..Fault::new(Trail::new(), reason, cure) })
}
