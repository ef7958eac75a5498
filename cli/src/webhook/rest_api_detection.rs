//! Detects a front end of the receiver that breaks compressed deliveries. Pure.
//!
//! An API Gateway *REST* API decompresses a body before the receiver can check the signature over
//! the compressed bytes (Nylas facts §3). It is not documented what a function URL or an HTTP API
//! does with a compressed body: the gzip probe finds out (`signed_probe.rs`).
//!
//! | Sign | Front end |
//! | --- | --- |
//! | host `….execute-api.…`, path with a first segment | possibly a REST API: its path always begins with the stage |
//! | host `….execute-api.…`, no path | an HTTP API with its stage `$default`: a REST API has no such address |
//! | the answer has the header `x-amz-apigw-id` | a REST API, whatever its host name |
//! | anything else | a function URL, an HTTP API, a proxy |
//!
//! An HTTP API with a named stage or a route also has a path, and its URL then looks like that of a
//! REST API. It is treated as one: refusing compression wastes a few bytes, allowing it by mistake
//! loses every notification.
//!
//! Sources: Amazon API Gateway Developer Guide, "Invoke REST APIs"
//! (`https://api-id.execute-api.region.amazonaws.com/stage`), "Stages for HTTP APIs" (`$default` is
//! served from the base of the URL) and "CloudWatch log formats" (`x-amz-apigw-id`). That HTTP APIs
//! do not send that header is *inferred*.

use std::fmt;

use reqwest::header::HeaderMap;
use url::Url;

/// The reason why a URL belongs, or may belong, to a REST API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RestApi {
    /// The host is one of API Gateway, and the path begins with what would be the stage.
    ByAddress { stage: String },
    /// The answer has a header that only REST APIs send.
    ByAnswer,
}

impl fmt::Display for RestApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByAddress { stage } => {
                write!(
                    f,
                    "the URL belongs to an API Gateway API with the stage {stage}"
                )
            }
            Self::ByAnswer => f.write_str("the URL belongs to an API Gateway REST API"),
        }
    }
}

/// Detects a REST API by its URL alone.
pub(crate) fn rest_api_by_address(url: &str) -> Option<RestApi> {
    let url = Url::parse(url).ok()?;
    let is_gateway = url.host_str()?.split('.').nth(1) == Some("execute-api");
    let stage = url.path_segments()?.find(|segment| !segment.is_empty())?;
    is_gateway.then(|| RestApi::ByAddress {
        stage: stage.to_owned(),
    })
}

/// Detects a REST API by the headers of its answer.
pub(crate) fn rest_api_by_answer(headers: &HeaderMap) -> Option<RestApi> {
    headers
        .contains_key("x-amz-apigw-id")
        .then_some(RestApi::ByAnswer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_a_stage_may_belong_to_a_rest_api() {
        for (url, stage) in [
            (
                "https://abc123.execute-api.eu-north-1.amazonaws.com/live",
                Some("live"),
            ),
            (
                "https://abc123.execute-api.eu-north-1.amazonaws.com/live/nylas?x=1",
                Some("live"),
            ),
            (
                "https://abc123-vpce-1.execute-api.us-gov-west-1.amazonaws.com//prod/",
                Some("prod"),
            ),
            (
                "https://abc123.execute-api.cn-north-1.amazonaws.com.cn/v1/",
                Some("v1"),
            ),
            // An HTTP API with its stage $default.
            ("https://abc123.execute-api.eu-north-1.amazonaws.com", None),
            ("https://abc123.execute-api.eu-north-1.amazonaws.com/", None),
            (
                "https://abc123.execute-api.eu-north-1.amazonaws.com/?a=/b",
                None,
            ),
            ("https://abc.lambda-url.eu-north-1.on.aws/live", None),
            ("https://hooks.example.com/execute-api/live", None),
            ("https://execute-api.example.com/live", None),
            ("no address", None),
        ] {
            let expected = stage.map(|stage| RestApi::ByAddress {
                stage: stage.to_owned(),
            });
            assert_eq!(rest_api_by_address(url), expected, "{url}");
        }
    }

    #[test]
    fn a_response_header_identifies_a_rest_api_behind_a_custom_domain() {
        let mut headers = HeaderMap::new();
        headers.insert("apigw-requestid", "an HTTP API's".parse().unwrap());
        headers.insert("x-amzn-requestid", "anybody's".parse().unwrap());
        assert_eq!(rest_api_by_answer(&headers), None);
        headers.insert("X-Amz-Apigw-Id", "a REST API's".parse().unwrap());
        assert_eq!(rest_api_by_answer(&headers), Some(RestApi::ByAnswer));
    }
}
