//! Parses `$filter` (Dataverse facts §14).
//!
//! ```text
//! any        = all *( "or" all )
//! all        = single *( "and" single )
//! single     = "not" single | "(" any ")" | function | property operator value
//! operator   = "eq" | "ne" | "gt" | "ge" | "lt" | "le"
//! function   = ( "contains" | "startswith" | "endswith" ) "(" property "," text ")"
//!            | "Microsoft.Dynamics.CRM.In" "(" "PropertyName=" text "," "PropertyValues=" array ")"
//! value      = text | number | guid | time | "true" | "false" | "null" | "@" name
//! ```
//!
//! All other OData syntax (lambda operators, arithmetic, comparing two columns, paths through
//! lookups) is rejected, so that no test depends on unverified behaviour.

use std::collections::HashMap;

use super::refusal::Refusal;
use super::tokens::{Token, malformed, tokens};

/// A parsed condition, whose names and values are not checked yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Filter {
    Any(Vec<Filter>),
    All(Vec<Filter>),
    Not(Box<Filter>),
    Compare {
        property: String,
        operator: Operator,
        value: Literal,
    },
    Match {
        property: String,
        place: Place,
        pattern: String,
    },
    In {
        property: String,
        values: Vec<String>,
    },
}

/// A comparison operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
}

/// Where in a value a text must occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Anywhere,
    Start,
    End,
}

/// A literal in a query, with or without quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Literal {
    Text(String),
    /// A number, GUID, time, boolean or null; the type of the column decides which.
    Bare(String),
}

/// Parameter aliases: the name, such as `@p1`, and the text after its equals sign.
pub(crate) type Aliases = HashMap<String, String>;

/// Parses the text of a `$filter`.
pub(crate) fn parse(text: &str, aliases: &Aliases) -> Result<Filter, Refusal> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        next: 0,
        aliases,
        depth: 0,
    };
    let filter = parser.any()?;
    match parser.take() {
        None => Ok(filter),
        Some(extra) => Err(malformed(&format!(
            "nothing was expected where {extra:?} stands"
        ))),
    }
}

/// The deepest nesting of parentheses and negations. The service has a limit too, but its value is
/// unknown.
const DEEPEST: usize = 50;

struct Parser<'a> {
    tokens: Vec<Token>,
    next: usize,
    aliases: &'a Aliases,
    depth: usize,
}

impl Parser<'_> {
    fn take(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.next).cloned();
        self.next += 1;
        token
    }

    fn peek_word(&self, word: &str) -> bool {
        matches!(self.tokens.get(self.next), Some(Token::Word(found)) if found == word)
    }

    fn expect(&mut self, wanted: &Token) -> Result<(), Refusal> {
        match self.take() {
            Some(token) if token == *wanted => Ok(()),
            other => Err(malformed(&format!(
                "{wanted:?} was expected, {other:?} found"
            ))),
        }
    }

    fn any(&mut self) -> Result<Filter, Refusal> {
        let mut parts = vec![self.all()?];
        while self.peek_word("or") {
            self.next += 1;
            parts.push(self.all()?);
        }
        Ok(one_or(parts, Filter::Any))
    }

    fn all(&mut self) -> Result<Filter, Refusal> {
        let mut parts = vec![self.single()?];
        while self.peek_word("and") {
            self.next += 1;
            parts.push(self.single()?);
        }
        Ok(one_or(parts, Filter::All))
    }

    fn single(&mut self) -> Result<Filter, Refusal> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(malformed("the nesting is too deep"));
        }
        let filter = match self.take() {
            Some(Token::Open) => {
                let filter = self.any()?;
                self.expect(&Token::Close)?;
                filter
            }
            Some(Token::Word(word)) if word == "not" => Filter::Not(Box::new(self.single()?)),
            Some(Token::Word(word)) if self.tokens.get(self.next) == Some(&Token::Open) => {
                self.function(&word)?
            }
            Some(Token::Word(property)) => self.comparison(property)?,
            other => {
                return Err(malformed(&format!(
                    "a condition was expected, {other:?} found"
                )));
            }
        };
        self.depth -= 1;
        Ok(filter)
    }

    fn comparison(&mut self, property: String) -> Result<Filter, Refusal> {
        let operator = match self.take() {
            Some(Token::Word(word)) => match word.as_str() {
                "eq" => Operator::Eq,
                "ne" => Operator::Ne,
                "gt" => Operator::Gt,
                "ge" => Operator::Ge,
                "lt" => Operator::Lt,
                "le" => Operator::Le,
                other => return Err(malformed(&format!("'{other}' is no operator"))),
            },
            other => {
                return Err(malformed(&format!(
                    "an operator was expected, {other:?} found"
                )));
            }
        };
        Ok(Filter::Compare {
            property,
            operator,
            value: self.literal()?,
        })
    }

    fn literal(&mut self) -> Result<Literal, Refusal> {
        match self.take() {
            Some(Token::Text(text)) => Ok(Literal::Text(text)),
            Some(Token::Word(word)) if word.starts_with('@') => match self.alias(&word)?.as_slice()
            {
                [Token::Text(text)] => Ok(Literal::Text(text.clone())),
                [Token::Word(word)] => Ok(Literal::Bare(word.clone())),
                _ => Err(malformed(&format!("{word} is not one value"))),
            },
            Some(Token::Word(word)) => Ok(Literal::Bare(word)),
            other => Err(malformed(&format!("a value was expected, {other:?} found"))),
        }
    }

    fn alias(&self, name: &str) -> Result<Vec<Token>, Refusal> {
        let text = self
            .aliases
            .get(name)
            .ok_or_else(|| malformed(&format!("{name} is not given")))?;
        tokens(text)
    }

    fn function(&mut self, name: &str) -> Result<Filter, Refusal> {
        let place = match name {
            "contains" => Place::Anywhere,
            "startswith" => Place::Start,
            "endswith" => Place::End,
            "Microsoft.Dynamics.CRM.In" => return self.in_function(),
            other => {
                return Err(Refusal::query(format!(
                    "An unknown function with name '{other}' was found."
                )));
            }
        };
        self.expect(&Token::Open)?;
        let Some(Token::Word(property)) = self.take() else {
            return Err(malformed("a column was expected"));
        };
        self.expect(&Token::Comma)?;
        let Literal::Text(pattern) = self.literal()? else {
            return Err(malformed("a text was expected"));
        };
        self.expect(&Token::Close)?;
        Ok(Filter::Match {
            property,
            place,
            pattern,
        })
    }

    fn in_function(&mut self) -> Result<Filter, Refusal> {
        self.expect(&Token::Open)?;
        self.expect(&Token::Word("PropertyName".to_owned()))?;
        self.expect(&Token::Equals)?;
        let Literal::Text(property) = self.literal()? else {
            return Err(malformed("PropertyName is not a text"));
        };
        self.expect(&Token::Comma)?;
        self.expect(&Token::Word("PropertyValues".to_owned()))?;
        self.expect(&Token::Equals)?;
        let array = match self.take() {
            Some(Token::Array(array)) => array,
            Some(Token::Word(name)) if name.starts_with('@') => match self.alias(&name)?.as_slice()
            {
                [Token::Array(array)] => array.clone(),
                _ => return Err(malformed("PropertyValues is not an array")),
            },
            _ => return Err(malformed("PropertyValues is not an array")),
        };
        self.expect(&Token::Close)?;
        let values: Vec<String> = serde_json::from_str(&array)
            .map_err(|_| malformed("PropertyValues must be texts in double quotes"))?;
        if values.is_empty() {
            return Err(malformed("PropertyValues is empty"));
        }
        Ok(Filter::In { property, values })
    }
}

/// Returns the only part, or combines several parts.
fn one_or(mut parts: Vec<Filter>, several: impl FnOnce(Vec<Filter>) -> Filter) -> Filter {
    match (parts.len(), parts.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            parts.extend(last);
            several(parts)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Filter, Refusal> {
        let aliases = [
            ("@p1", "'emailaddress1'"),
            ("@p2", r#"["a@x.example","b[1]@x.example"]"#),
            ("@n", "null"),
        ];
        parse(
            text,
            &aliases
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        )
    }

    fn compare(property: &str, value: Literal) -> Filter {
        Filter::Compare {
            property: property.to_owned(),
            operator: Operator::Eq,
            value,
        }
    }

    #[test]
    fn and_binds_tighter_than_or() {
        let Filter::Any(parts) = read("a eq 1 or b eq 2 and c eq 3").unwrap() else {
            panic!("`or` must be the outermost operator")
        };
        assert_eq!(parts.len(), 2);
        let Filter::All(second) = &parts[1] else {
            panic!("the second part must be an `and`")
        };
        assert_eq!(second.len(), 2);
    }

    #[test]
    fn a_quote_in_a_string_literal_is_escaped_by_doubling() {
        let wanted = compare("lastname", Literal::Text("O'Brien (x)".to_owned()));
        assert_eq!(read("lastname eq 'O''Brien (x)'").unwrap(), wanted);
    }

    #[test]
    fn the_in_function_accepts_aliases_and_inline_arguments() {
        let wanted = Filter::In {
            property: "emailaddress1".to_owned(),
            values: vec!["a@x.example".to_owned(), "b[1]@x.example".to_owned()],
        };
        assert_eq!(
            read("Microsoft.Dynamics.CRM.In(PropertyName=@p1,PropertyValues=@p2)").unwrap(),
            wanted
        );
        let in_place = r#"Microsoft.Dynamics.CRM.In(PropertyName='emailaddress1',PropertyValues=["a@x.example","b[1]@x.example"])"#;
        assert_eq!(read(in_place).unwrap(), wanted);
    }

    #[test]
    fn an_alias_is_replaced_by_its_value() {
        assert_eq!(
            read("a eq @n").unwrap(),
            compare("a", Literal::Bare("null".to_owned()))
        );
    }

    #[test]
    fn an_invalid_filter_is_rejected_without_a_panic() {
        let deep = "(".repeat(10_000);
        for text in [
            "",
            " ",
            "a",
            "a eq",
            "a eq 'x",
            "a is 1",
            "a eq 1 b",
            "(a eq 1",
            "a eq 1)",
            "not",
            "contains(a)",
            "contains(a,5)",
            "tolower(a) eq 'x'",
            "a eq @nosuch",
            "a eq 1 or",
            "a EQ 1",
            "or or or",
            "'a' eq 'a'",
            "ä eq",
            "Microsoft.Dynamics.CRM.In(PropertyName=@p1,PropertyValues=@n)",
            "Microsoft.Dynamics.CRM.In(PropertyName='a',PropertyValues=['x'])",
            "Microsoft.Dynamics.CRM.In(PropertyName='a',PropertyValues=[])",
            "a eq [1]",
            &deep,
        ] {
            assert_eq!(read(text).unwrap_err().code, "0x80060888", "{text}");
        }
    }
}
