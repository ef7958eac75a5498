//! Clients of the services that mailverse calls. A call makes one attempt and never waits; its
//! error says whether and when a repetition is worth it ([`retry`]).
//!
//! | Service | Module |
//! | --- | --- |
//! | Dataverse Web API | [`dataverse`] |
//! | Nylas v3 API | [`nylas`] |
//! | Microsoft Entra ID, tokens | [`entra`] |
//! | Secrets Manager, SQS | [`aws`] |

pub mod aws;
pub mod dataverse;
pub mod entra;
pub mod http;
pub mod nylas;
pub mod refusal;
pub mod retry;
