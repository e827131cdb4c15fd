//! Colours and widths of a terminal.

use std::fmt;

/// How a text looks on a terminal with colours.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Look {
    Bold,
    Dim,
    Green,
    Red,
    Yellow,
}

impl Look {
    const fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Green => "32",
            Self::Red => "31",
            Self::Yellow => "33",
        }
    }
}

/// Whether there are colours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint {
    pub(crate) has_color: bool,
}

impl Paint {
    /// Dresses a word for a terminal with colours; leaves it alone elsewhere.
    pub(crate) fn on(self, look: Look, text: impl fmt::Display) -> String {
        let text = text.to_string();
        if self.has_color && !text.is_empty() {
            format!("\x1b[{}m{text}\x1b[0m", look.code())
        } else {
            text
        }
    }
}

/// Fills a text up to a width in columns of a terminal, which a character may need two of.
pub(crate) fn fill(text: &str, width: usize) -> String {
    let missing = width.saturating_sub(console::measure_text_width(text));
    format!("{text}{}", " ".repeat(missing))
}

/// Makes control characters visible.
pub(crate) fn escape(text: &str) -> String {
    if text.chars().any(char::is_control) {
        text.chars()
            .flat_map(|c| {
                let is_control = c.is_control();
                let escaped = is_control.then(|| c.escape_default());
                escaped.into_iter().flatten().chain((!is_control).then_some(c))
            })
            .collect()
    } else {
        text.to_owned()
    }
}
