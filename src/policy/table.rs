//! The route table: from a host, a path and a method to the one route that decides.
//!
//! First the host's services: the longest prefix of whole segments wins. Then that service's tree of segments: a
//! literal goes before a parameter, a parameter before `**`. The path is settled first and the method second, so
//! that a request can never slip to a wider route by choosing a method that the narrower one does not name.

use foldhash::{HashMap, HashMapExt};
use http::Method;

use super::path::CheckedPath;
use super::route_key::{Methods, RouteKey, Segment};

/// Path parameters of one request, in the order of the route key.
pub type Parameters<'p> = Vec<&'p str>;

/// What a lookup found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'t, 'p, T> {
    Target(&'t T, Parameters<'p>),
    /// The path is known, with other methods.
    OtherMethods(&'t Leaf<T>),
    Nothing,
}

/// The routes of one service.
#[derive(Debug)]
pub struct Tree<T> {
    nodes: Vec<Node<T>>,
}

#[derive(Debug)]
struct Node<T> {
    literals: HashMap<Box<str>, usize>,
    parameter: Option<usize>,
    /// Routes that end here.
    end: Leaf<T>,
    /// Routes that end here with a slash.
    slash: Leaf<T>,
    /// Routes that end here with `/**`.
    rest: Leaf<T>,
}

/// The targets of one path by method.
#[derive(Debug, PartialEq, Eq)]
pub struct Leaf<T> {
    targets: Vec<(Methods, T)>,
}

impl<T> Leaf<T> {
    fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    fn find(&self, method: &Method) -> Option<&T> {
        self.targets.iter().find(|(methods, _)| methods.contains(method)).map(|(_, target)| target)
    }

    /// The value of an `Allow` header (RFC 9110 §10.2.1).
    pub fn allow(&self) -> String {
        let mut names: Vec<&str> = self.targets.iter().flat_map(|(methods, _)| methods.allowed()).collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        let leaf = || Leaf { targets: Vec::new() };
        Self { literals: HashMap::new(), parameter: None, end: leaf(), slash: leaf(), rest: leaf() }
    }
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

impl<T> Tree<T> {
    /// Adds a route. The target that already holds one of its methods on the same path is the error.
    pub fn insert(&mut self, key: &RouteKey, target: T) -> Result<(), &T> {
        let mut at = 0;
        for segment in &key.segments {
            let known = match segment {
                Segment::Literal(text) => self.nodes[at].literals.get(text.as_str()).copied(),
                Segment::Parameter(_) => self.nodes[at].parameter,
            };
            at = match known {
                Some(next) => next,
                None => {
                    let next = self.nodes.len();
                    self.nodes.push(Node::default());
                    match segment {
                        Segment::Literal(text) => drop(self.nodes[at].literals.insert(text.as_str().into(), next)),
                        Segment::Parameter(_) => self.nodes[at].parameter = Some(next),
                    }
                    next
                }
            };
        }
        let node = &mut self.nodes[at];
        let leaf = match (key.rest, key.slash) {
            (true, _) => &mut node.rest,
            (false, true) => &mut node.slash,
            (false, false) => &mut node.end,
        };
        match leaf.targets.iter().position(|(methods, _)| methods.overlaps(&key.methods)) {
            Some(i) => Err(&leaf.targets[i].1),
            None => {
                leaf.targets.push((key.methods.clone(), target));
                Ok(())
            }
        }
    }

    pub fn find<'p>(&self, path: &'p CheckedPath<'_>, method: &Method) -> Found<'_, 'p, T> {
        let mut parameters = Vec::new();
        let inside = path.inside();
        let rest = if inside.is_empty() { None } else { Some(inside) };
        match self.descend(0, rest, &mut parameters) {
            Step::Elsewhere | Step::Refused => Found::Nothing,
            Step::Here(leaf) => match leaf.find(method) {
                Some(target) => Found::Target(target, parameters),
                None => Found::OtherMethods(leaf),
            },
        }
    }

    /// `rest` is what follows the slash after this node, `None` when the path ends at this node. Each node of the
    /// tree is seen at most once, so a lookup is bounded by the configuration, whatever the path.
    fn descend<'p>(&self, at: usize, rest: Option<&'p str>, parameters: &mut Parameters<'p>) -> Step<'_, T> {
        let node = &self.nodes[at];
        let Some(rest) = rest else { return node.at_end(&node.end, &node.slash) };
        let (segment, below) = match rest.split_once('/') {
            Some((segment, below)) => (segment, Some(below)),
            None => (rest, None),
        };
        if segment.is_empty() {
            return node.at_end(&node.slash, &node.end);
        }
        if let Some(next) = node.literals.get(segment) {
            let found = self.descend(*next, below, parameters);
            if !matches!(found, Step::Elsewhere) {
                return found;
            }
        }
        if let Some(next) = node.parameter {
            parameters.push(segment);
            let found = self.descend(next, below, parameters);
            if !matches!(found, Step::Elsewhere) {
                return found;
            }
            parameters.pop();
        }
        if node.rest.is_empty() { Step::Elsewhere } else { Step::Here(&node.rest) }
    }
}

/// Where a path leads from one node of the tree.
enum Step<'t, T> {
    Here(&'t Leaf<T>),
    /// Nowhere from here; a wider route may still take it.
    Elsewhere,
    /// The path is a named one with a slash too many or too few. Many servers answer both alike, so a wider route must
    /// not take it.
    Refused,
}

impl<T> Node<T> {
    /// The routes of a path that ends here: as it is written, else the node's own `/**`. `twin` holds the routes of the
    /// same path with or without its closing slash.
    fn at_end<'t>(&'t self, written: &'t Leaf<T>, twin: &Leaf<T>) -> Step<'t, T> {
        match (written.is_empty(), self.rest.is_empty(), twin.is_empty()) {
            (false, _, _) => Step::Here(written),
            (true, false, true) => Step::Here(&self.rest),
            (true, _, false) => Step::Refused,
            (true, true, true) => Step::Elsewhere,
        }
    }
}

/// The services of one host, by prefix.
#[derive(Debug, Default)]
pub struct Site {
    /// Longest prefix first; a prefix has no closing slash, so that `/` is the empty text.
    prefixes: Vec<(String, usize)>,
}

impl Site {
    pub fn new(mut prefixes: Vec<(String, usize)>) -> Self {
        prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Self { prefixes }
    }

    /// The services of this host.
    pub fn members(&self) -> impl Iterator<Item = usize> {
        self.prefixes.iter().map(|(_, index)| *index)
    }

    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }

    pub fn find(&self, path: &CheckedPath<'_>) -> Option<usize> {
        self.prefixes.iter().find(|(prefix, _)| path.is_below(prefix)).map(|(_, index)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(keys: &[&'static str]) -> Tree<&'static str> {
        let mut tree = Tree::default();
        for key in keys {
            let parsed = RouteKey::parse(key).unwrap();
            tree.insert(&parsed, *key).unwrap_or_else(|other| panic!("{key} conflicts with {other}"));
        }
        tree
    }

    fn ask(tree: &Tree<&'static str>, method: &str, path: &str) -> String {
        let checked = CheckedPath::new(path).unwrap();
        match tree.find(&checked, &Method::from_bytes(method.as_bytes()).unwrap()) {
            Found::Target(key, parameters) if parameters.is_empty() => (*key).to_owned(),
            Found::Target(key, parameters) => format!("{key} {parameters:?}"),
            Found::OtherMethods(leaf) => format!("405 {}", leaf.allow()),
            Found::Nothing => "404".to_owned(),
        }
    }

    #[test]
    fn the_most_specific_route_wins_whatever_the_order() {
        let keys = ["/**", "GET /a/{x}", "GET /a/me", "/a/{x}/c/**", "GET /a/{x}/c/d", "GET /"];
        let mut reversed = keys;
        reversed.reverse();
        for tree in [tree(&keys), tree(&reversed)] {
            assert_eq!(ask(&tree, "GET", "/a/me"), "GET /a/me");
            assert_eq!(ask(&tree, "GET", "/a/you"), r#"GET /a/{x} ["you"]"#);
            assert_eq!(ask(&tree, "GET", "/a/me/c"), r#"/a/{x}/c/** ["me"]"#);
            assert_eq!(ask(&tree, "GET", "/a/1/c/d"), r#"GET /a/{x}/c/d ["1"]"#);
            assert_eq!(ask(&tree, "GET", "/a/1/c/e/f"), r#"/a/{x}/c/** ["1"]"#);
            assert_eq!(ask(&tree, "GET", "/a/1/x"), "/**");
            assert_eq!(ask(&tree, "GET", "/"), "GET /");
        }
    }

    #[test]
    fn a_double_star_is_the_path_itself_and_everything_below() {
        let tree = tree(&["/admin/**"]);
        for path in ["/admin", "/admin/", "/admin/a", "/admin/a/b/"] {
            assert_eq!(ask(&tree, "GET", path), "/admin/**", "{path}");
        }
        for path in ["/", "/adm", "/administrator", "/a/admin"] {
            assert_eq!(ask(&tree, "GET", path), "404", "{path}");
        }
    }

    #[test]
    fn a_closing_slash_is_another_path() {
        let tree = tree(&["GET /a", "GET /b/"]);
        assert_eq!(ask(&tree, "GET", "/a/"), "404");
        assert_eq!(ask(&tree, "GET", "/b"), "404");
        assert_eq!(ask(&tree, "GET", "/b/"), "GET /b/");
    }

    #[test]
    fn a_slash_too_many_or_too_few_never_falls_to_a_wider_route() {
        let tree = tree(&["/**", "/admin", "GET /a/{x}", "/dir/", "/own/**", "/own"]);
        for path in ["/admin/", "/a/1/", "/dir", "/own/"] {
            assert_eq!(ask(&tree, "GET", path), "404", "{path}");
        }
        assert_eq!([ask(&tree, "GET", "/admin"), ask(&tree, "GET", "/dir/"), ask(&tree, "GET", "/own/x")], ["/admin", "/dir/", "/own/**"]);
        assert_eq!([ask(&tree, "GET", "/other/"), ask(&tree, "GET", "/admin/x")], ["/**", "/**"]);
    }

    #[test]
    fn a_method_that_the_narrow_route_does_not_name_never_falls_to_the_wide_one() {
        let tree = tree(&["/files/**", "GET /files/secret", "PUT,POST /files/secret"]);
        assert_eq!(ask(&tree, "DELETE", "/files/secret"), "405 GET, HEAD, POST, PUT");
        assert_eq!(ask(&tree, "HEAD", "/files/secret"), "GET /files/secret");
        assert_eq!(ask(&tree, "get", "/files/secret"), "405 GET, HEAD, POST, PUT");
    }

    #[test]
    fn two_routes_that_could_both_win_are_refused() {
        for (first, second) in [("GET /a/{x}", "GET /a/{y}"), ("/a", "POST /a"), ("GET /a/**", "/a/**"), ("GET /a", "HEAD /a")] {
            let mut tree = Tree::default();
            tree.insert(&RouteKey::parse(first).unwrap(), first).unwrap();
            assert_eq!(tree.insert(&RouteKey::parse(second).unwrap(), second), Err(&first), "{first} and {second}");
        }
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_picks_the_service() {
        let site = Site::new(vec![(String::new(), 0), ("/mcp".to_owned(), 1), ("/mcp/v2".to_owned(), 2)]);
        let find = |path| site.find(&CheckedPath::new(path).unwrap());
        assert_eq!(
            [find("/"), find("/mcp"), find("/mcp/x"), find("/mcpx"), find("/mcp/v2/x")],
            [Some(0), Some(1), Some(1), Some(0), Some(2)]
        );
    }
}
