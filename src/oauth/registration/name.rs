//! The name of an app that registers itself. Users read it on the page where they consent, so that it must not be able to
//! look like anything else: no invisible or reordering characters, one script, and no name that belongs to somebody.

use unicode_normalization::UnicodeNormalization;
use unicode_security::confusable_detection::skeleton;
use unicode_security::restriction_level::{RestrictionLevel, RestrictionLevelDetection};

const NAME_CHARS_MAX: usize = 80;

/// Marks on one letter; more of them climb out of their line.
const MARKS_MAX: usize = 2;

/// The name as it is shown, or the rule that it breaks. Runs of spaces become one.
pub fn shown(text: &str) -> Result<String, &'static str> {
    let name: String = text.nfc().collect();
    if name.chars().any(|c| c.is_control() || is_invisible(c)) {
        return Err("client_name has control characters, or such as are invisible or turn the direction of text");
    }
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
        return Err("client_name is not 1 to 80 characters long");
    }
    if has_towers(&name) {
        return Err("client_name has too many marks on one letter");
    }
    let letters: String = name.chars().filter(|c| c.is_alphanumeric()).collect();
    if letters.is_empty() {
        return Err("client_name has no letter");
    }
    // UTS 39 §5.2: one script, or one of the mixtures in which whole languages are written.
    match letters.as_str().detect_restriction_level() <= RestrictionLevel::HighlyRestrictive {
        true => Ok(name),
        false => Err("client_name mixes scripts, or has letters that are not for names (UTS 39)"),
    }
}

/// Whether a name has a reserved one in it, in whatever spelling looks like it.
pub fn is_reserved(reserved: &[String], name: &str) -> bool {
    let name = bones(name);
    reserved.iter().map(|reserved| bones(reserved)).any(|reserved| !reserved.is_empty() && name.contains(&reserved))
}

/// What is left of a text when look-alikes are one: UTS 39 §4, in lower case, letters and digits alone, and with the
/// letters and digits that are confused in every typeface taken for one another.
fn bones(text: &str) -> String {
    let lower: String = text.nfkc().flat_map(char::to_lowercase).collect();
    let bare: String = skeleton(&lower).flat_map(char::to_lowercase).nfd().filter(|c| c.is_alphanumeric()).collect();
    bare.replace(['i', '1', '|'], "l").replace('0', "o").replace('5', "s").replace("rn", "m").replace("vv", "w")
}

fn has_towers(name: &str) -> bool {
    let mut marks = 0;
    name.nfd().any(|c| {
        marks = if unicode_normalization::char::is_combining_mark(c) { marks + 1 } else { 0 };
        marks > MARKS_MAX
    })
}

/// Format characters, and others that show nothing: an app could hide behind them, or turn what stands around it.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffd}' | '\u{e000}'..='\u{f8ff}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{10ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_honest_name_is_shown_as_it_is() {
        for (text, expected) in [
            ("WeatherBot", "WeatherBot"),
            ("  MCP   CLI Proxy \t(dev) ", "MCP CLI Proxy (dev)"),
            ("Zoe\u{308}'s agent", "Zo\u{eb}'s agent"),
            ("天気予報", "天気予報"),
            ("Погода", "Погода"),
            ("الطقس", "الطقس"),
            ("天気 Bot", "天気 Bot"),
        ] {
            // A tab is a control character.
            match text.contains('\t') {
                true => assert!(shown(text).is_err()),
                false => assert_eq!(shown(text).as_deref(), Ok(expected)),
            }
        }
        assert_eq!(shown("  MCP   CLI Proxy (dev) ").as_deref(), Ok("MCP CLI Proxy (dev)"));
    }

    #[test]
    fn a_name_that_hides_something_is_refused() {
        let long = "a".repeat(NAME_CHARS_MAX + 1);
        for text in [
            "",
            "   ",
            "...",
            "a\u{0}b",
            "a\nb",
            "a\u{202e}b",
            "a\u{2066}b",
            "a\u{200b}b",
            "a\u{feff}b",
            "a\u{e0041}b",
            "a\u{e000}b",
            "P\u{430}ypal",
            "Ｗeather",
            "a\u{301}\u{301}\u{301}\u{301}",
            &long,
        ] {
            assert!(shown(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_reserved_name_is_known_in_every_disguise() {
        let reserved = ["Wicketgate".to_owned(), "Acme Corp".to_owned(), "modern".to_owned()];
        for text in [
            "Wicketgate",
            "wicket gate",
            "My WICKETGATE app",
            "W1cketgate",
            "Wlcketgate",
            "Acme-Corp Support",
            "acmecorp",
            "Асmе Соrр",
            "modem",
        ] {
            assert!(is_reserved(&reserved, text), "{text}");
        }
        for text in ["WeatherBot", "Acme", "Corp of Acme", "Gate"] {
            assert!(!is_reserved(&reserved, text), "{text}");
        }
    }
}
