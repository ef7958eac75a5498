//! Text as Dataverse stores it: allowed characters, length, and cutting to a length.

/// Removes the characters that XML 1.0 cannot hold; keeps line breaks and tabs.
pub(crate) fn without_forbidden(text: &str) -> String {
    let allowed = |c: &char| !matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}');
    text.chars().filter(allowed).collect()
}

/// Returns the length in UTF-16 code units, in which Dataverse counts its column lengths.
pub(crate) fn length(text: &str) -> usize {
    text.encode_utf16().count()
}

/// Returns the longest prefix of at most `limit` UTF-16 code units that ends at a character
/// boundary.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    let mut units = 0;
    let over = text.char_indices().find(|(_, c)| {
        units += c.len_utf16();
        units > limit
    });
    over.and_then(|(at, _)| text.get(..at)).unwrap_or(text)
}
