//! Derives the keys of rows in Dataverse from the message, so that every copy and every attempt
//! gets the same key.

use uuid::Uuid;

use crate::model::address::EmailAddress;
use crate::model::ids::{ActivityId, InternetMessageId, MessageKey};

/// The namespace of all activity ids. A change would write every message a second time.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d61_696c_7665_5273_8000_6163_7469_7669);

/// Returns the `activityid` of an email: the same for every copy of it in every mailbox.
///
/// It is the UUIDv5 of the Message-ID and the sender, both normalised; without a Message-ID, of the
/// grant id and the message id. The sender is included because senders choose Message-IDs: a sender
/// cannot occupy the key of another sender's email by repeating its Message-ID. Source: Dataverse
/// facts §7.1 (a client-chosen `activityid` is accepted; verified).
#[must_use]
pub fn activity_id(
    key: &MessageKey,
    internet_message_id: Option<&InternetMessageId>,
    sender: Option<&EmailAddress>,
) -> ActivityId {
    let (kind, first, second) = match internet_message_id {
        Some(id) => (
            "message-id",
            id.as_str(),
            sender.map_or("", EmailAddress::normal),
        ),
        None => ("provider", key.grant_id.as_str(), key.message_id.as_str()),
    };
    // No part can contain a control character, so the separator is unambiguous.
    ActivityId::new(Uuid::new_v5(
        &NAMESPACE,
        format!("{kind}\0{first}\0{second}").as_bytes(),
    ))
}

/// Returns the `activityid` of an email that shares Message-ID and sender with another email, whose
/// row has the key of [`activity_id`].
///
/// It is the UUIDv5 of Message-ID, sender and content (`lookup::same_message::content`); of the
/// grant id and the message id if there is no content to distinguish it by. Grant id and message id
/// alone would be enough for one mailbox. But an email in five mailboxes would then have five rows,
/// and nothing would reject the other four: such a row has no `messageid` either, because only the
/// other row may have it. With the content in the key, all copies share one row that Dataverse
/// enforces, as for every other email; a redelivery finds it by its key; and two emails with
/// different content never share a row. The price: a copy to which a mailing list or a gateway
/// added text has a separate row.
#[must_use]
pub(crate) fn activity_id_by_content(
    key: &MessageKey,
    internet_message_id: &InternetMessageId,
    sender: Option<&EmailAddress>,
    content: Option<[u8; 32]>,
) -> ActivityId {
    let Some(content) = content else {
        return activity_id(key, None, None);
    };
    let (id, sender) = (
        internet_message_id.as_str(),
        sender.map_or("", EmailAddress::normal),
    );
    let mut name = format!("content\0{id}\0{sender}\0").into_bytes();
    name.extend(content);
    ActivityId::new(Uuid::new_v5(&NAMESPACE, &name))
}

/// Returns the id of an attachment's row: from its position and name, since provider ids differ
/// from copy to copy.
#[must_use]
pub(crate) fn attachment_id(activity: ActivityId, position: usize, file_name: &str) -> Uuid {
    Uuid::new_v5(
        &activity.uuid(),
        format!("attachment\0{position}\0{file_name}").as_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(grant: &str, message: &str) -> MessageKey {
        MessageKey {
            grant_id: grant.parse().unwrap(),
            message_id: message.parse().unwrap(),
        }
    }

    fn header(value: &str) -> InternetMessageId {
        InternetMessageId::from_header(value).unwrap()
    }

    #[test]
    fn every_copy_of_an_email_has_the_same_activity_id() {
        let ada = EmailAddress::parse("Ada@Example.com").unwrap();
        let one = activity_id(&key("g1", "m1"), Some(&header("<a@x>")), Some(&ada));
        let two = activity_id(
            &key("g2", "m2"),
            Some(&header("a@x ")),
            EmailAddress::parse("ada@example.com").as_ref(),
        );
        assert_eq!(one, two);
        // Pinned: a change of the derivation would write every message again.
        assert_eq!(one.to_string(), "1a2265b9-1c53-5c96-b593-6ecd884c829f");
    }

    #[test]
    fn the_activity_id_does_not_depend_on_the_spelling_of_the_sender() {
        let id = |sender: &str| {
            let sender = EmailAddress::parse(sender);
            activity_id(&key("g", "m"), Some(&header("a@x")), sender.as_ref())
        };
        let wire = id("ada@xn--bcher-kva.example");
        assert_eq!(id("Ada@Bücher.example"), wire);
        assert_eq!(id("\"ada\"@bücher.example"), wire);
        assert_ne!(id("ada+x@bücher.example"), wire);
        // Pinned with the domain in ASCII form (Punycode), whose key must not change.
        assert_eq!(wire.to_string(), "ee506ead-a066-56d6-bbaf-eb661452632e");
    }

    #[test]
    fn another_message_id_or_sender_or_an_unidentified_copy_has_another_activity_id() {
        let ada = EmailAddress::parse("ada@example.com");
        let bob = EmailAddress::parse("bob@example.com");
        let ids = [
            activity_id(&key("g1", "m1"), Some(&header("a@x")), ada.as_ref()),
            activity_id(&key("g1", "m1"), Some(&header("A@x")), ada.as_ref()),
            activity_id(&key("g1", "m1"), Some(&header("a@x")), bob.as_ref()),
            activity_id(&key("g1", "m1"), Some(&header("a@x")), None),
            activity_id(&key("g1", "m1"), None, ada.as_ref()),
            activity_id(&key("g2", "m1"), None, ada.as_ref()),
        ];
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }

    #[test]
    fn messages_that_share_a_message_id_have_one_activity_id_per_content() {
        let ada = EmailAddress::parse("ada@example.com");
        let of = |grant: &str, content| {
            activity_id_by_content(&key(grant, "m1"), &header("a@x"), ada.as_ref(), content)
        };
        assert_eq!(of("g1", Some([1; 32])), of("g2", Some([1; 32])));
        assert_ne!(of("g1", Some([1; 32])), of("g1", Some([2; 32])));
        // Nothing distinguishes it from the others, so it has a row for each mailbox.
        assert_eq!(of("g1", None), activity_id(&key("g1", "m1"), None, None));
        // Pinned: a change of the derivation would write such messages again.
        assert_eq!(
            of("g1", Some([1; 32])).to_string(),
            "e94448e9-590a-5fa4-b912-cfe3066e8cba"
        );
    }

    #[test]
    fn attachments_with_the_same_name_have_different_ids() {
        let activity = ActivityId::new(Uuid::from_u128(7));
        assert_ne!(
            attachment_id(activity, 0, "a.pdf"),
            attachment_id(activity, 1, "a.pdf")
        );
        assert_eq!(
            attachment_id(activity, 0, "a.pdf"),
            attachment_id(activity, 0, "a.pdf")
        );
    }
}
