//! Parses query options and `Prefer` headers: columns, order, page, annotations (Dataverse facts
//! §13 and §14).

use percent_encoding::percent_decode_str;

use super::filter::Aliases;
use super::refusal::Refusal;

/// The largest number of rows in a page.
pub(crate) const LARGEST_PAGE: usize = 5_000;

/// The query options of a URL.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(crate) select: Option<Vec<String>>,
    pub(crate) filter: Option<String>,
    pub(crate) expand: Vec<Expand>,
    /// Property, and whether its order is descending.
    pub(crate) order: Vec<(String, bool)>,
    pub(crate) top: Option<usize>,
    pub(crate) count: bool,
    pub(crate) skip_token: Option<String>,
    pub(crate) aliases: Aliases,
}

/// One name in `$expand`, with the options in its parentheses.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expand {
    pub(crate) name: String,
    pub(crate) options: Options,
}

impl Options {
    /// Parses the text after the question mark.
    ///
    /// A plus sign means a space, as in a form. A literal plus sign must be encoded.
    pub(crate) fn read(query: &str) -> Result<Self, Refusal> {
        let mut options = Self::default();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            options.set(&decode(name)?, &decode(value)?)?;
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        match name {
            "$select" => {
                self.select = Some(
                    value
                        .split(',')
                        .map(|name| name.trim().to_owned())
                        .collect(),
                );
            }
            "$filter" => self.filter = Some(value.to_owned()),
            "$expand" => self.expand = expands(value)?,
            "$orderby" => self.order = order(value)?,
            "$top" => self.top = Some(value.parse().map_err(|_| invalid(name, value))?),
            "$count" => self.count = value.parse().map_err(|_| invalid(name, value))?,
            "$skiptoken" => self.skip_token = Some(value.to_owned()),
            "$apply" => return Err(Refusal::not_imitated("aggregation by $apply")),
            "fetchXml" | "savedQuery" | "userQuery" | "sql" => {
                return Err(Refusal::not_imitated(format!("queries by {name}")));
            }
            // Dataverse has no `$skip` (Dataverse facts §14) and no other options with this prefix.
            _ if name.starts_with('$') => {
                return Err(Refusal::query(format!(
                    "The query parameter {name} is not supported."
                )));
            }
            _ if name.starts_with('@') => {
                self.aliases.insert(name.to_owned(), value.to_owned());
            }
            // Other parameters are passed to plug-ins (`tag`) or ignored.
            _ => {}
        }
        Ok(())
    }
}

/// Decodes percent-encoding, once.
pub(crate) fn decode(text: &str) -> Result<String, Refusal> {
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8();
    decoded
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Refusal::query("Bad Request - Error in query syntax."))
}

fn invalid(name: &str, value: &str) -> Refusal {
    Refusal::query(format!(
        "Invalid value '{value}' for {name} query option found."
    ))
}

fn order(text: &str) -> Result<Vec<(String, bool)>, Refusal> {
    let term = |term: &str| match term.split_whitespace().collect::<Vec<_>>().as_slice() {
        [property] | [property, "asc"] => Ok(((*property).to_owned(), false)),
        [property, "desc"] => Ok(((*property).to_owned(), true)),
        _ => Err(invalid("$orderby", text)),
    };
    text.split(',').map(term).collect()
}

fn expands(text: &str) -> Result<Vec<Expand>, Refusal> {
    split_outside(text, ',')?.into_iter().map(expand).collect()
}

fn expand(term: &str) -> Result<Expand, Refusal> {
    let Some((name, rest)) = term.trim().split_once('(') else {
        return Ok(Expand {
            name: term.trim().to_owned(),
            options: Options::default(),
        });
    };
    let inside = rest
        .strip_suffix(')')
        .ok_or_else(|| invalid("$expand", term))?;
    let mut options = Options::default();
    for part in split_outside(inside, ';')? {
        let (option, value) = part
            .split_once('=')
            .ok_or_else(|| invalid("$expand", term))?;
        // Nested expands would also let a URL decide how deep the recursion goes.
        if option.trim() == "$expand" {
            return Err(Refusal::not_imitated("an expand inside an expand"));
        }
        options.set(option.trim(), value)?;
    }
    Ok(Expand {
        name: name.trim().to_owned(),
        options,
    })
}

/// Splits at separators outside parentheses and quotes.
fn split_outside(text: &str, separator: char) -> Result<Vec<&str>, Refusal> {
    let (mut open, mut quoted) = (0_usize, false);
    let mut unbalanced = false;
    let parts = text
        .split(|character| {
            match character {
                '\'' => quoted = !quoted,
                '(' if !quoted => open += 1,
                ')' if !quoted => match open.checked_sub(1) {
                    Some(fewer) => open = fewer,
                    None => unbalanced = true,
                },
                _ => {}
            }
            character == separator && open == 0 && !quoted
        })
        .collect();
    if unbalanced || quoted || open > 0 {
        Err(invalid("$expand", text))
    } else {
        Ok(parts)
    }
}

/// The preferences in the `Prefer` headers of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Prefer {
    pub(crate) representation: bool,
    pub(crate) continue_on_error: bool,
    pub(crate) max_page_size: Option<usize>,
    /// The names of annotations, or patterns that end in `*`.
    pub(crate) annotations: Vec<String>,
}

impl Prefer {
    pub(crate) fn read<'h>(headers: impl Iterator<Item = &'h str>) -> Self {
        let mut prefer = Self::default();
        for preference in headers.flat_map(preferences) {
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "return" => prefer.representation = value == "representation",
                "odata.continue-on-error" => prefer.continue_on_error = value != "false",
                "odata.maxpagesize" => {
                    prefer.max_page_size = value.parse().ok().filter(|size| *size > 0);
                }
                "odata.include-annotations" => {
                    prefer.annotations = value
                        .split(',')
                        .map(|name| name.trim().to_owned())
                        .collect();
                }
                _ => {}
            }
        }
        prefer
    }

    /// Returns whether the request asks for the annotation, by name or by a pattern that ends in an
    /// asterisk.
    pub(crate) fn wants(&self, annotation: &str) -> bool {
        self.annotations
            .iter()
            .any(|wanted| match wanted.strip_suffix('*') {
                Some(start) => annotation.starts_with(start),
                None => wanted == annotation,
            })
    }
}

/// Splits a header at commas and semicolons outside quotes.
fn preferences(header: &str) -> Vec<&str> {
    let mut quoted = false;
    header
        .split(|character| {
            quoted ^= character == '"';
            matches!(character, ',' | ';') && !quoted
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_options_are_decoded_once_and_a_plus_is_a_space() {
        let options =
            Options::read("$filter=emailaddress1+eq%20%27a%2Bb%40x.example%27&$top=3&$count=true")
                .unwrap();
        assert_eq!(
            options.filter.as_deref(),
            Some("emailaddress1 eq 'a+b@x.example'")
        );
        assert_eq!((options.top, options.count), (Some(3), true));
        assert_eq!(
            Options::read("$filter=a%2520b").unwrap().filter.as_deref(),
            Some("a%20b")
        );
    }

    #[test]
    fn nested_options_belong_to_their_expand() {
        let options =
            Options::read("$expand=email_activity_parties($select=addressused,participationtypemask;$top=2),ownerid").unwrap();
        let names: Vec<&str> = options
            .expand
            .iter()
            .map(|expand| expand.name.as_str())
            .collect();
        assert_eq!(names, ["email_activity_parties", "ownerid"]);
        assert_eq!(options.expand[0].options.select.as_ref().unwrap().len(), 2);
        assert_eq!(options.expand[0].options.top, Some(2));
    }

    #[test]
    fn unknown_or_invalid_query_options_are_rejected() {
        for query in [
            "$skip=5",
            "$nosuch=1",
            "$top=-1",
            "$top=x",
            "$count=yes",
            "$orderby=a b c",
            "$expand=a(",
            "$expand=a)b",
            "$expand=a($select)",
            "$filter=%ff",
        ] {
            assert_eq!(
                Options::read(query).unwrap_err().code,
                "0x80060888",
                "{query}"
            );
        }
        assert!(Options::read("tag=mailverse").is_ok());
        for query in [
            "fetchXml=%3Cfetch/%3E",
            "savedQuery=1",
            "userQuery=1",
            "sql=SELECT",
        ] {
            assert_eq!(Options::read(query).unwrap_err().status, 501, "{query}");
        }
    }

    #[test]
    fn preferences_are_read_from_one_or_several_headers() {
        let headers = [
            "return=representation, odata.maxpagesize=2",
            r#"odata.include-annotations="a.b,c.*""#,
        ];
        let prefer = Prefer::read(headers.into_iter());
        assert!(prefer.representation && !prefer.continue_on_error);
        assert_eq!(prefer.max_page_size, Some(2));
        assert!(prefer.wants("a.b") && prefer.wants("c.d") && !prefer.wants("a.bc"));
    }
}
