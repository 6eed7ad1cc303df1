//! Reading a whole document: its types as far as they can be read, every fault at its place, and the schema.

use super::fault::{ConfigErrors, Fault};
use super::tree::{self, Environment, Node};
use super::{Config, read};

/// A document that was read: its types, as far as they could be read, and where everything stands.
pub struct Document {
    pub config: Option<Config>,
    tree: Option<Node>,
    faults: Vec<Fault>,
}

impl Document {
    /// Reads a document. It never fails: its faults are kept for `into_errors`, beside those that compiling finds.
    pub fn read(text: &str, environment: Environment<'_>) -> Self {
        let mut faults = Vec::new();
        let mut tree = tree::parse(text, environment, &mut faults);
        let config = tree.as_mut().and_then(|tree| read::read(tree, &required_keys, &mut faults));
        Self { config, tree, faults }
    }

    pub fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    /// All faults, those found later placed at their line and column. That something is missing is said only when
    /// nothing else is at fault before: it may be missing because it could not be read.
    pub fn into_errors(mut self, source_name: &str, later: Vec<Fault>) -> ConfigErrors {
        let unreadable = !self.faults.is_empty();
        for mut fault in later.into_iter().filter(|fault| !(fault.absence && unreadable)) {
            if let Some(tree) = &self.tree {
                fault.place.get_or_insert(tree.place_of(&fault.trail, &fault.text));
            }
            self.faults.push(fault);
        }
        ConfigErrors::new(source_name, self.faults)
    }
}

/// The JSON Schema of the document (2020-12), made from the types above.
pub fn json_schema() -> schemars::Schema {
    schemars::schema_for!(Config)
}

/// The keys that a type of the document cannot do without, as its schema says.
fn required_keys(type_name: &str) -> Vec<String> {
    let schema = json_schema();
    let schema = schema.as_value();
    let of = if type_name == "Config" { schema } else { &schema["$defs"][type_name] };
    let required = of["required"].as_array().into_iter().flatten();
    required.filter_map(|key| key.as_str().map(str::to_owned)).collect()
}
