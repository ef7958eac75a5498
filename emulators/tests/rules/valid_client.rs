//! An emulator and a client whose requests are valid. Each test then makes one part invalid.

use emulators::Emulators;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use uuid::Uuid;

/// A running emulator and an HTTP client with a token for it.
pub(crate) struct ValidClient {
    pub(crate) emulators: Emulators,
    pub(crate) http: Client,
    pub(crate) token: String,
}

/// An answer of Dataverse, read to its end.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: String,
}

impl Answered {
    pub(crate) async fn read(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self {
            status,
            headers,
            body: response.text().await.unwrap(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|_| panic!("the body is not JSON: {}", self.body))
    }

    /// Returns the status and the error code; the code is `none` if the body has none.
    pub(crate) fn error(&self) -> (u16, String) {
        let code = self.json()["error"]["code"]
            .as_str()
            .unwrap_or("none")
            .to_owned();
        (self.status, code)
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map(|value| value.to_str().unwrap())
            .unwrap_or_default()
    }

    /// Returns the id at the end of the header `OData-EntityId`. Panics if the request failed.
    pub(crate) fn id(&self) -> Uuid {
        assert!(self.status < 300, "{}: {}", self.status, self.body);
        let url = self.header("odata-entityid");
        Uuid::parse_str(&url[url.len() - 37..url.len() - 1]).unwrap()
    }
}

/// Returns an error in the form of [`Answered::error`], to compare with.
pub(crate) fn error(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

impl ValidClient {
    pub(crate) async fn new() -> Self {
        let emulators = Emulators::start().await.unwrap();
        let token = emulators
            .entra()
            .issue_token(&emulators.dataverse().url(), 600);
        Self {
            emulators,
            http: Client::new(),
            token,
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(
                method,
                format!("{}/api/data/v9.2/{path}", self.emulators.dataverse().url()),
            )
            .bearer_auth(&self.token)
            .header("OData-Version", "4.0")
            .header("OData-MaxVersion", "4.0")
            .header("Accept", "application/json")
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Answered {
        Answered::read(request.send().await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answered {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answered {
        self.send(self.request(Method::POST, path).json(&body))
            .await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answered {
        self.send(self.request(Method::PATCH, path).json(&body))
            .await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answered {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Creates an Open email and returns its id.
    pub(crate) async fn email(&self) -> Uuid {
        self.post(
            "emails",
            json!({"subject": "Kites", "directioncode": false}),
        )
        .await
        .id()
    }

    /// Inserts a contact with this address and returns its id.
    pub(crate) fn contact(&self, address: &str) -> Uuid {
        self.emulators
            .dataverse()
            .insert(
                "contact",
                json!({"lastname": "Lark", "emailaddress1": address}),
            )
            .unwrap()
    }

    /// Creates an email, completes it as received and returns its id.
    pub(crate) async fn completed_email(&self) -> Uuid {
        let id = self.email().await;
        assert_eq!(
            self.patch(
                &format!("emails({id})"),
                json!({"statecode": 1, "statuscode": 4})
            )
            .await
            .status,
            204
        );
        id
    }

    /// Returns one column of a stored email.
    pub(crate) fn stored(&self, id: Uuid, column: &str) -> Value {
        self.emulators
            .dataverse()
            .row("email", id)
            .expect("the email is stored")[column]
            .clone()
    }
}
