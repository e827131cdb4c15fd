//! Words of a command line, for the tools of the tests: a wrong one ends the tool.

use std::str::FromStr;

/// What stands behind the command.
#[derive(Debug, Clone, Copy)]
pub struct Arguments<'a>(pub &'a [String]);

impl<'a> Arguments<'a> {
    /// Whether a word is there.
    pub fn has(self, name: &str) -> bool {
        self.0.iter().any(|word| word == name)
    }

    /// Whether help is asked for.
    pub fn ask_for_help(self) -> bool {
        self.has("--help") || self.has("-h")
    }

    /// The word behind another one.
    pub fn value(self, name: &str) -> Option<&'a str> {
        let at = self.0.iter().position(|word| word == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    /// The same as a number.
    pub fn number<N: FromStr>(self, name: &str) -> Option<N> {
        let number = |text: &str| {
            text.parse()
                .unwrap_or_else(|_| panic!("{name} {text} is no such number"))
        };
        self.value(name).map(number)
    }
}
