//! Email addresses, and the normal form in which they are compared.
//!
//! | Part | As written in the email | In the normal form |
//! | --- | --- | --- |
//! | all | `Ada@Example.COM` | `ada@example.com`: trimmed, lower case |
//! | domain | `ada@Bücher.example` | `ada@xn--bcher-kva.example`: A-labels (IDNA, UTS 46) |
//! | local part in quotes | `"ada"@example.com`, `"a\da"@example.com` | `ada@example.com`: without unnecessary quotes |
//! | local part that needs its quotes | `"ada\ lark"@example.com` | `"ada lark"@example.com`: without unnecessary backslashes |
//! | tag | `ada+kites@example.com` | unchanged: tags are kept ([`EmailAddress::without_tag`] is used if nothing matches) |
//!
//! The normal form uses A-labels for three reasons. Mail servers transmit them, so most addresses
//! are compared as written. Each domain has exactly one such form. And it is plain ASCII, for which
//! collations and Unicode versions do not differ.
//!
//! Dataverse stores what users typed, which may be either form, and compares texts. So a lookup
//! queries all [`EmailAddress::spellings`], and the rows found are compared here in the normal
//! form.
//!
//! Two local parts with differently composed accents are different addresses: only their mail
//! servers know whether they are the same. A domain that IDNA rejects is kept as written.

use std::fmt;
use std::hash::{Hash, Hasher};

use idna::AsciiDenyList;

use super::ids::NO_COLUMN_HOLDS;

/// The longest address that an activity party holds, in UTF-16 code units.
///
/// Source: Dataverse facts §5, `activityparty.addressused`.
const LONGEST_ADDRESS: usize = 320;

/// An email address. It equals every other spelling of its normal form (see the module's
/// documentation); prints as `…`.
#[derive(Clone)]
pub struct EmailAddress {
    /// As written in the email, trimmed and in lower case.
    written: String,
    /// The normal form; `None` if it is the same as `written`.
    normal: Option<String>,
}

impl EmailAddress {
    /// Parses an address. `None` if the text is not an address, or is longer than an activity party
    /// holds.
    ///
    /// An unquoted local part with whitespace or list separators is rejected, since such a text is
    /// a list or a display name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (local, domain) = text.rsplit_once('@')?;
        let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
        let sound = !local.is_empty()
            && !domain.is_empty()
            && !text.chars().any(char::is_control)
            && !text.contains(NO_COLUMN_HOLDS)
            && !domain.chars().any(is_separator)
            && (quoted || !local.chars().any(is_separator));
        let written = text.to_lowercase();
        (sound && written.encode_utf16().count() <= LONGEST_ADDRESS)
            .then(|| Self::from_written(written))
    }

    fn from_written(written: String) -> Self {
        let normal = normal_form(&written).filter(|normal| *normal != written);
        Self { written, normal }
    }

    /// Returns the whole address as written in the email, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// Returns the normal form, by which addresses are compared.
    #[must_use]
    pub(crate) fn normal(&self) -> &str {
        self.normal.as_deref().unwrap_or(&self.written)
    }

    /// Returns the part after the last `@`, in A-labels.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.normal()
            .rsplit_once('@')
            .map_or("", |(_, domain)| domain)
    }

    /// Returns the part before the last `@`, in the normal form.
    #[must_use]
    pub(crate) fn local_part(&self) -> &str {
        self.normal()
            .rsplit_once('@')
            .map_or("", |(local, _)| local)
    }

    /// Returns the address without its tag: `ada@example.com` for `ada+kites@example.com`; `None`
    /// if it has no tag.
    #[must_use]
    pub(crate) fn without_tag(&self) -> Option<Self> {
        let (local, _) = self.normal().rsplit_once('@')?;
        let (plain, _) = local.split_once('+')?;
        if plain.is_empty() || local.starts_with('"') {
            return None;
        }
        // The domain stays as written in the email.
        let (_, domain) = self.written.rsplit_once('@')?;
        Some(Self::from_written(format!("{plain}@{domain}")))
    }

    /// Returns the distinct texts under which Dataverse may store this address: the normal form,
    /// the form with the domain in U-labels, and the address as written.
    #[must_use]
    pub(crate) fn spellings(&self) -> Vec<String> {
        let mut spellings = vec![self.normal().to_owned()];
        let readable = format!("{}@{}", self.local_part(), readable_domain(self.domain()));
        for other in [readable, self.written.clone()] {
            if !spellings.contains(&other) {
                spellings.push(other);
            }
        }
        spellings
    }
}

fn is_separator(c: char) -> bool {
    c.is_whitespace() || matches!(c, ',' | ';' | '<' | '>' | '@' | '"')
}

fn normal_form(written: &str) -> Option<String> {
    let (local, domain) = written.rsplit_once('@')?;
    Some(format!(
        "{}@{}",
        normal_local_part(local),
        normal_domain(domain)
    ))
}

/// Returns a domain in lower case and in A-labels; in lower case only if IDNA rejects it.
#[must_use]
pub(crate) fn normal_domain(domain: &str) -> String {
    let lower = domain.to_lowercase();
    if lower.is_ascii() {
        return lower;
    }
    // Forbids the characters that a URL's host must not contain: a full-width `＠` would otherwise
    // become a second `@`.
    match idna::domain_to_ascii_cow(lower.as_bytes(), AsciiDenyList::URL) {
        Ok(labels) if !labels.is_empty() => labels.into_owned(),
        _ => lower,
    }
}

/// Returns a domain in U-labels, the readable form; unchanged if IDNA rejects it.
#[must_use]
pub(crate) fn readable_domain(domain: &str) -> String {
    match idna::domain_to_unicode(domain) {
        (readable, Ok(())) if domain.contains("xn--") => readable,
        _ => domain.to_owned(),
    }
}

/// Removes unnecessary quotes and backslashes from a local part (RFC 5322 §3.2.1, §3.4.1).
fn normal_local_part(local: &str) -> String {
    let Some(content) = local
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .and_then(unescaped)
    else {
        return local.to_owned();
    };
    if is_dot_atom(&content) {
        return content;
    }
    let mut quoted = String::from('"');
    for c in content.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// Returns the content of a quoted string without its escapes; `None` if it contains an unescaped
/// quote or ends with a backslash.
fn unescaped(content: &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = content.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => text.push(characters.next()?),
            '"' => return None,
            other => text.push(other),
        }
    }
    Some(text)
}

/// Returns whether a text needs no quotes: RFC 5322 §3.2.3, with the letters of RFC 6532.
fn is_dot_atom(text: &str) -> bool {
    let is_atext = |c: char| {
        c.is_ascii_alphanumeric()
            || "!#$%&'*+-/=?^_`{|}~".contains(c)
            || (!c.is_ascii() && !c.is_whitespace())
    };
    text.split('.')
        .all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

impl PartialEq for EmailAddress {
    fn eq(&self, other: &Self) -> bool {
        self.normal() == other.normal()
    }
}

impl Eq for EmailAddress {}

impl Hash for EmailAddress {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.normal().hash(state);
    }
}

impl PartialOrd for EmailAddress {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for EmailAddress {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.normal().cmp(other.normal())
    }
}

impl fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmailAddress(…)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> EmailAddress {
        EmailAddress::parse(text).unwrap()
    }

    fn normal(text: &str) -> String {
        address(text).normal().to_owned()
    }

    #[test]
    fn an_address_is_compared_in_lower_case_and_an_invalid_one_is_rejected() {
        let ada = address("  Ada.O'Neil+crm@Example.COM ");
        assert_eq!(ada.as_str(), "ada.o'neil+crm@example.com");
        assert_eq!(ada.normal(), ada.as_str());
        assert_eq!(ada.domain(), "example.com");
        assert!(EmailAddress::parse("\"odd; one\"@example.com").is_some());
        for none in [
            "",
            "ada",
            "@example.com",
            "ada@",
            "a b@example.com",
            "a@b;c@d",
            "x@exa mple.com",
            "a\u{0}@example.com",
            "a\u{ffff}@example.com",
            "Ada <ada@example.com>",
        ] {
            assert!(EmailAddress::parse(none).is_none(), "{none:?}");
        }
        assert!(EmailAddress::parse(&format!("{}@example.com", "x".repeat(309))).is_none());
    }

    #[test]
    fn an_address_does_not_show_in_debug_output() {
        assert_eq!(
            format!("{:?}", address("ada@example.com")),
            "EmailAddress(…)"
        );
    }

    #[test]
    fn an_international_domain_is_compared_as_punycode_and_kept_as_written() {
        let readable = address("Ada@BÜCHER.example");
        assert_eq!(readable.as_str(), "ada@bücher.example");
        assert_eq!(readable.normal(), "ada@xn--bcher-kva.example");
        assert_eq!(readable.domain(), "xn--bcher-kva.example");
        assert!(readable == address("ada@XN--bcher-kva.example"));
        // A letter with a combining accent, full-width letters, the full stop of another script:
        // the same domain.
        for other in [
            "ada@bu\u{308}cher.example",
            "ada@ｂücher.example",
            "ada@bücher。example",
        ] {
            assert!(readable == address(other), "{other}");
        }
        assert!(readable != address("ada@bucher.example"));
    }

    #[test]
    fn a_domain_that_idna_rejects_is_kept_as_written() {
        for odd in [
            "ada@xn--a.example",
            "ada@ü\u{ad}\u{202e}.example",
            "ada@[192.0.2.1]",
            "ada@ü＠evil.example",
        ] {
            assert_eq!(normal(odd), odd, "{odd}");
        }
    }

    #[test]
    fn unneeded_quotes_do_not_make_another_address() {
        assert_eq!(normal("\"Ada.Lark\"@example.com"), "ada.lark@example.com");
        assert_eq!(normal("\"ad\\a\"@example.com"), "ada@example.com");
        assert_eq!(normal("\"adä\"@example.com"), "adä@example.com");
        assert_eq!(
            address("\"Ada\"@example.com").as_str(),
            "\"ada\"@example.com"
        );
    }

    #[test]
    fn needed_quotes_are_kept() {
        for needed in ["ada lark", "ada..lark", ".ada", "ada.", "a@b", "a;b"] {
            let quoted = format!("\"{needed}\"@example.com");
            assert_eq!(normal(&quoted), quoted);
        }
        assert_eq!(
            normal("\"ada\\ lark\"@example.com"),
            "\"ada lark\"@example.com"
        );
        assert_eq!(
            normal("\"a\\\"b\\\\c\"@example.com"),
            "\"a\\\"b\\\\c\"@example.com"
        );
        let unpaired = "\"a\"b\"@example.com";
        assert_eq!(normal(unpaired), unpaired);
    }

    #[test]
    fn a_tag_is_kept_and_can_be_removed() {
        let tagged = address("Ada+Kites+2@Bücher.example");
        assert!(tagged != address("ada@bücher.example"));
        let plain = tagged.without_tag().unwrap();
        assert_eq!(plain.as_str(), "ada@bücher.example");
        assert!(plain == address("ada@xn--bcher-kva.example"));
        assert_eq!(
            address("\"ada+x\"@example.com")
                .without_tag()
                .unwrap()
                .as_str(),
            "ada@example.com"
        );
        for none in [
            "ada@example.com",
            "+ada@example.com",
            "\"a b+c\"@example.com",
        ] {
            assert!(address(none).without_tag().is_none(), "{none}");
        }
    }

    #[test]
    fn each_spelling_of_an_address_is_listed_once() {
        assert_eq!(address("Ada@example.com").spellings(), ["ada@example.com"]);
        let both = ["ada@xn--bcher-kva.example", "ada@bücher.example"];
        assert_eq!(address("ada@bücher.example").spellings(), both);
        assert_eq!(address("ada@xn--bcher-kva.example").spellings(), both);
        assert_eq!(
            address("\"ada\"@example.com").spellings(),
            ["ada@example.com", "\"ada\"@example.com"]
        );
    }

    proptest! {
        #[test]
        fn an_ordinary_address_is_its_own_normal_form_and_only_spelling(
            local in "[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,12}(\\.[a-z0-9]{1,5}){0,2}", domain in "[a-z0-9-]{1,12}\\.[a-z]{2,6}",
        ) {
            let text = format!("{local}@{domain}");
            let ordinary = address(&text);
            prop_assert_eq!(ordinary.normal(), text.as_str());
            prop_assert_eq!(ordinary.spellings(), [text]);
        }

        #[test]
        fn the_normal_form_and_every_spelling_equal_the_address(text in "\\PC{1,20}@\\PC{1,20}") {
            if let Some(address) = EmailAddress::parse(&text) {
                let again = EmailAddress::from_written(address.normal().to_owned());
                prop_assert_eq!(again.normal(), address.normal());
                prop_assert!(!address.domain().is_empty() && !address.domain().contains('@'));
                for spelling in address.spellings() {
                    prop_assert!(EmailAddress::from_written(spelling) == address);
                }
            }
        }
    }
}
