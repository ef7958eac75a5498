//! The tokens of a `$filter`.

use serde_json::Value;

use super::refusal::Refusal;

/// One token of a condition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    Open,
    Close,
    Comma,
    Equals,
    Text(String),
    /// A JSON array, as the function `In` accepts it.
    Array(String),
    Word(String),
}

/// Returns the error for a condition that cannot be parsed.
pub(crate) fn malformed(detail: &str) -> Refusal {
    Refusal::query(format!("Syntax error in '$filter': {detail}."))
}

/// Splits a condition into its tokens.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, Refusal> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (token, after) = match first {
            ' ' | '\t' => (None, rest.get(1..).unwrap_or_default()),
            '(' => (Some(Token::Open), rest.get(1..).unwrap_or_default()),
            ')' => (Some(Token::Close), rest.get(1..).unwrap_or_default()),
            ',' => (Some(Token::Comma), rest.get(1..).unwrap_or_default()),
            '=' => (Some(Token::Equals), rest.get(1..).unwrap_or_default()),
            '\'' => quoted(rest).map(|(text, after)| (Some(Token::Text(text)), after))?,
            '[' => array(rest).map(|(text, after)| (Some(Token::Array(text)), after))?,
            _ => {
                let end = rest
                    .find([' ', '\t', '(', ')', ',', '=', '\'', '['])
                    .unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                (Some(Token::Word(word.to_owned())), after)
            }
        };
        tokens.extend(token);
        rest = after;
    }
    Ok(tokens)
}

/// Reads a text in single quotes, in which a quote is doubled.
fn quoted(text: &str) -> Result<(String, &str), Refusal> {
    let mut rest = text.get(1..).unwrap_or_default();
    let mut read = String::new();
    loop {
        let end = rest
            .find('\'')
            .ok_or_else(|| malformed("a text is not closed"))?;
        let (part, after) = rest.split_at(end);
        read.push_str(part);
        let after = after.get(1..).unwrap_or_default();
        let Some(more) = after.strip_prefix('\'') else {
            return Ok((read, after));
        };
        read.push('\'');
        rest = more;
    }
}

/// Reads a JSON array; strings in it may contain brackets.
fn array(text: &str) -> Result<(String, &str), Refusal> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    match stream.next() {
        Some(Ok(_)) => {
            let (array, after) = text.split_at(stream.byte_offset());
            Ok((array.to_owned(), after))
        }
        _ => Err(malformed("an array is not JSON")),
    }
}
