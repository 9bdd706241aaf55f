//! How texts get into a page.

use std::fmt::{Result, Write};

use askama::filters::{Escaper, Html};
use tapio_occurrence::printable::printable;

/// Escapes what HTML would act on, and what a reader's eyes would: control characters and marks that turn the reading
/// direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shown;

impl Escaper for Shown {
    fn write_escaped_str<W: Write>(&self, to: W, text: &str) -> Result {
        Html.write_escaped_str(to, &printable(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_markup_nor_control_characters_get_through() {
        let mut shown = String::new();
        Shown.write_escaped_str(&mut shown, "<b a='\"'>&\u{1b}[31m\u{202e}x\n").unwrap();
        assert_eq!(shown, "&#60;b a=&#39;&#34;&#39;&#62;&#38;\\u{1b}[31m\\u{202e}x\\n");
    }
}
