//! How Entra answers an application that requests a token with its secret or with a certificate.
//!
//! | Request                                    | Answer                       | Dataverse facts §16 |
//! | ------------------------------------------ | ---------------------------- | ------------------- |
//! | valid                                      | 200, a new token, 3599 s     | verified            |
//! | wrong secret                               | 401 `invalid_client` 7000215 | status inferred     |
//! | expired secret                             | 401 `invalid_client` 7000222 | status inferred     |
//! | rejected assertion, see `entra/assertion.rs` | 401 `invalid_client` 700027, 700024, 50027 | inferred |
//! | unknown application                        | 400 `unauthorized_client` 700016 | verified        |
//! | unknown tenant                             | 400 `invalid_request` 90002  | verified            |
//! | scope that is not `<resource>/.default`    | 400 `invalid_scope` 70011    | verified            |
//! | scope for an unknown organisation          | 400 `invalid_resource` 500011| inferred            |
//! | missing field, other grant type            | 400, 900144 or 70003         | inferred            |

mod assertion;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use url::form_urlencoded;
use uuid::Uuid;

use crate::clock::Clock;
use crate::fault::{Fault, Faults};
use crate::lock::lock;
use crate::server::{Incoming, Outgoing, Service};

/// Default lifetime of a token that was requested over HTTP, in seconds (Dataverse facts §16:
/// "about 3599").
const LIFETIME_SECONDS: i64 = 3599;

/// The Entra tenant. One application is registered, and tests can register more. Clones are handles
/// of the same tenant.
#[derive(Clone)]
pub struct Entra {
    url: String,
    tenant_id: String,
    client_id: String,
    state: Arc<Mutex<State>>,
    faults: Faults,
    clock: Clock,
}

struct State {
    /// Resources for which tokens may be requested, without a final slash.
    resources: Vec<String>,
    /// Registered applications by id, in lower case.
    applications: HashMap<String, Application>,
    /// Every token that was issued and not revoked.
    tokens: HashMap<String, Issued>,
    /// Ids of accepted assertions; an id is accepted once.
    assertions: HashSet<String>,
    /// Lifetime of the next token that is requested over HTTP.
    lifetime_seconds: i64,
    requests: u64,
}

struct Application {
    secret: String,
    secret_expired: bool,
    /// The uploaded certificates, in DER.
    certificates: Vec<Vec<u8>>,
}

impl Application {
    fn new() -> Self {
        Self {
            // With characters that a form must encode: a client that does not encode them is
            // rejected.
            secret: format!("twin+{}/=~&%", Uuid::new_v4().simple()),
            secret_expired: false,
            certificates: Vec::new(),
        }
    }
}

struct Issued {
    client_id: String,
    resource: String,
    expires: DateTime<Utc>,
}

impl Entra {
    pub(crate) fn new(url: String, resource_url: &str, clock: Clock) -> Self {
        let client_id = Uuid::new_v4().to_string();
        let state = State {
            resources: vec![trimmed(resource_url)],
            applications: HashMap::from([(client_id.clone(), Application::new())]),
            tokens: HashMap::new(),
            assertions: HashSet::new(),
            lifetime_seconds: LIFETIME_SECONDS,
            requests: 0,
        };
        Self {
            url,
            tenant_id: Uuid::new_v4().to_string(),
            client_id,
            state: Arc::new(Mutex::new(state)),
            faults: Faults::default(),
            clock,
        }
    }

    /// Returns the login host, `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn authority(&self) -> String {
        self.url.clone()
    }

    /// Returns the tenant's id.
    #[must_use]
    pub fn tenant_id(&self) -> String {
        self.tenant_id.clone()
    }

    /// Returns the id of the application that is registered from the start.
    #[must_use]
    pub fn client_id(&self) -> String {
        self.client_id.clone()
    }

    /// Returns the secret of that application. It contains characters that a form must
    /// percent-encode.
    #[must_use]
    pub fn client_secret(&self) -> String {
        self.client_secret_of(&self.client_id).unwrap_or_default()
    }

    /// Registers another application and returns its id.
    #[must_use]
    pub fn register(&self) -> String {
        let client_id = Uuid::new_v4().to_string();
        let mut state = lock(&self.state);
        state
            .applications
            .insert(client_id.clone(), Application::new());
        client_id
    }

    /// Returns the secret of a registered application; `None` if the id is unknown.
    #[must_use]
    pub fn client_secret_of(&self, client_id: &str) -> Option<String> {
        let state = lock(&self.state);
        let application = state.applications.get(&client_id.to_ascii_lowercase());
        application.map(|application| application.secret.clone())
    }

    /// Makes the secret of a registered application expire.
    pub fn expire_secret(&self, client_id: &str) {
        if let Some(application) = lock(&self.state).applications.get_mut(client_id) {
            application.secret_expired = true;
        }
    }

    /// Uploads a certificate, in DER, for a registered application.
    pub fn upload_certificate(&self, client_id: &str, der: &[u8]) {
        if let Some(application) = lock(&self.state).applications.get_mut(client_id) {
            application.certificates.push(der.to_vec());
        }
    }

    /// Returns a token without an HTTP request. A token with a negative lifetime has expired
    /// already.
    #[must_use]
    pub fn issue_token(&self, resource_url: &str, lifetime_seconds: i64) -> String {
        self.issue_token_for(&self.client_id, resource_url, lifetime_seconds)
    }

    /// Returns a token of another application without an HTTP request.
    ///
    /// Dataverse accepts it if a row of `systemuser` has the application's id in `applicationid`.
    #[must_use]
    pub fn issue_token_for(
        &self,
        client_id: &str,
        resource_url: &str,
        lifetime_seconds: i64,
    ) -> String {
        let now = self.clock.now();
        let lifetime = TimeDelta::try_seconds(lifetime_seconds).unwrap_or_default();
        let expires = now.checked_add_signed(lifetime).unwrap_or(now);
        let claims = json!({
            "aud": trimmed(resource_url), "iss": format!("{}/{}/", self.url, self.tenant_id),
            "iat": now.timestamp(), "nbf": now.timestamp(), "exp": expires.timestamp(),
            "appid": client_id, "tid": self.tenant_id, "uti": Uuid::new_v4(),
        });
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let header = json!({"typ": "JWT", "alg": "RS256"});
        // The signature is random: the Dataverse emulator asks this emulator about a token, and
        // does not check its signature.
        let token = format!(
            "{}.{}.{}",
            encode(&header),
            encode(&claims),
            URL_SAFE_NO_PAD.encode(Uuid::new_v4())
        );
        let issued = Issued {
            client_id: client_id.to_owned(),
            resource: trimmed(resource_url),
            expires,
        };
        lock(&self.state).tokens.insert(token.clone(), issued);
        token
    }

    /// Sets the lifetime of tokens that are requested over HTTP from now on. Entra gives each token
    /// a lifetime of its own.
    pub fn set_lifetime(&self, lifetime_seconds: i64) {
        lock(&self.state).lifetime_seconds = lifetime_seconds;
    }

    /// Revokes every token that was issued so far.
    pub fn revoke_all(&self) {
        lock(&self.state).tokens.clear();
    }

    /// Returns the number of HTTP requests so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        lock(&self.state).requests
    }

    /// Makes the next request fail. Faults queue up, one for each request.
    pub fn fail_next(&self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Revokes one token.
    pub(crate) fn revoke(&self, token: &str) {
        lock(&self.state).tokens.remove(token);
    }

    /// Returns the application that `token` was issued to. `None` if the token is unknown, expired,
    /// or for another resource than `resource_url`.
    pub(crate) fn caller(&self, token: &str, resource_url: &str) -> Option<String> {
        let now = self.clock.now();
        let state = lock(&self.state);
        let issued = state.tokens.get(token)?;
        (issued.resource == trimmed(resource_url) && issued.expires > now)
            .then(|| issued.client_id.clone())
    }

    fn token(&self, incoming: &Incoming) -> Result<Value, OAuthError> {
        let tenant = incoming
            .path
            .strip_prefix('/')
            .and_then(|rest| rest.strip_suffix("/oauth2/v2.0/token"))
            .ok_or_else(|| OAuthError::new(404, "invalid_request", 90_008, "no such endpoint"))?;
        if incoming.method != Method::POST {
            let text = "Endpoint only accepts POST requests.";
            return Err(OAuthError::new(400, "invalid_request", 900_561, text));
        }
        if !tenant.eq_ignore_ascii_case(&self.tenant_id) {
            let text = format!(
                "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID."
            );
            return Err(OAuthError::new(400, "invalid_request", 90_002, &text));
        }
        let form = Form::read(incoming)?;
        match form.required("grant_type")? {
            "client_credentials" => {}
            other => {
                let text = format!("The app requested an unsupported grant type '{other}'.");
                return Err(OAuthError::new(
                    400,
                    "unsupported_grant_type",
                    70_003,
                    &text,
                ));
            }
        }
        let client_id = self.check_client(&form)?;
        let resource = self.resource(form.required("scope")?)?;
        let lifetime = lock(&self.state).lifetime_seconds;
        let token = self.issue_token_for(&client_id, &resource, lifetime);
        Ok(json!({
            "token_type": "Bearer", "expires_in": lifetime, "ext_expires_in": lifetime,
            "access_token": token,
        }))
    }

    /// Checks the credential of a token request and returns the application's id.
    fn check_client(&self, form: &Form) -> Result<String, OAuthError> {
        let client_id = form.required("client_id")?.to_ascii_lowercase();
        let mut state = lock(&self.state);
        let State {
            applications,
            assertions,
            ..
        } = &mut *state;
        let Some(application) = applications.get(&client_id) else {
            let text = format!(
                "Application with identifier '{client_id}' was not found in the directory '{}'.",
                self.tenant_id
            );
            return Err(OAuthError::new(400, "unauthorized_client", 700_016, &text));
        };
        if let Some(assertion) = form.value("client_assertion") {
            if form.required("client_assertion_type")? != assertion::TYPE {
                let text = "The request has an unsupported 'client_assertion_type'.";
                return Err(OAuthError::new(400, "invalid_request", 900_144, text));
            }
            let expected = assertion::Expected {
                certificates: &application.certificates,
                client_id: &client_id,
                audience: &format!("{}/{}/oauth2/v2.0/token", self.url, self.tenant_id),
                now: self.clock.now(),
            };
            expected.check(assertion, assertions)?;
            return Ok(client_id);
        }
        if form.required("client_secret")? != application.secret {
            let text = format!(
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, \
                 not the client secret ID, for a secret added to app '{client_id}'."
            );
            return Err(OAuthError::new(401, "invalid_client", 7_000_215, &text));
        }
        if application.secret_expired {
            let text =
                format!("The provided client secret keys for app '{client_id}' are expired.");
            return Err(OAuthError::new(401, "invalid_client", 7_000_222, &text));
        }
        Ok(client_id)
    }

    fn resource(&self, scope: &str) -> Result<String, OAuthError> {
        let resource = scope.strip_suffix("/.default").filter(|resource| !resource.contains(' ')).ok_or_else(|| {
            let text = format!(
                "The provided request must include a 'scope' input parameter. The provided value for the input \
                 parameter 'scope' is not valid. The scope {scope} is not valid."
            );
            OAuthError::new(400, "invalid_scope", 70_011, &text)
        })?;
        if lock(&self.state).resources.contains(&trimmed(resource)) {
            return Ok(trimmed(resource));
        }
        let text = format!(
            "The resource principal named {resource} was not found in the tenant named {}.",
            self.tenant_id
        );
        Err(OAuthError::new(400, "invalid_resource", 500_011, &text))
    }
}

impl Service for Entra {
    fn faults(&self) -> &Faults {
        &self.faults
    }

    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn count(&self) {
        lock(&self.state).requests += 1;
    }

    fn refuse(&self, status: u16, code: &str, message: &str) -> Outgoing {
        // A fault's code is an OAuth error, or a number such as `AADSTS50196`.
        let number = code
            .strip_prefix("AADSTS")
            .and_then(|number| number.parse().ok());
        let error = number.map_or(code, |number| error_of(number));
        OAuthError {
            status,
            error: error.to_owned(),
            number,
            text: message.to_owned(),
        }
        .outgoing()
    }

    async fn answer(&self, incoming: &Incoming) -> Outgoing {
        match self.token(incoming) {
            Ok(body) => json_answer(200, &body),
            Err(refusal) => refusal.outgoing(),
        }
    }
}

/// Returns a resource in lower case and without final slashes, which make no difference (inferred).
fn trimmed(url: &str) -> String {
    url.trim_end_matches('/').to_ascii_lowercase()
}

fn json_answer(status: u16, body: &Value) -> Outgoing {
    let headers = vec![
        ("Content-Type", "application/json; charset=utf-8".to_owned()),
        ("Cache-Control", "no-store, no-cache".to_owned()),
    ];
    Outgoing {
        status,
        headers,
        body: body.to_string().into_bytes(),
    }
}

/// Returns the OAuth error for an `AADSTS` number (Dataverse facts §16).
fn error_of(number: u32) -> &'static str {
    match number {
        7_000_215 | 7_000_222 | 700_027 => "invalid_client",
        700_016 => "unauthorized_client",
        70_011 => "invalid_scope",
        500_011 => "invalid_resource",
        _ => "invalid_request",
    }
}

/// The form fields of a token request.
struct Form(HashMap<String, String>);

impl Form {
    fn read(incoming: &Incoming) -> Result<Self, OAuthError> {
        let kind = incoming.header("content-type").unwrap_or_default();
        if !kind
            .to_ascii_lowercase()
            .starts_with("application/x-www-form-urlencoded")
        {
            let text = "The request body must be form-encoded.";
            return Err(OAuthError::new(400, "invalid_request", 900_144, text));
        }
        let body = incoming.body.as_deref().unwrap_or_default();
        Ok(Self(form_urlencoded::parse(body).into_owned().collect()))
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    fn required(&self, name: &str) -> Result<&str, OAuthError> {
        self.value(name).ok_or_else(|| {
            let text = format!("The request body must contain the following parameter: '{name}'.");
            OAuthError::new(400, "invalid_request", 900_144, &text)
        })
    }
}

/// An error in the format of the token endpoint.
struct OAuthError {
    status: u16,
    error: String,
    number: Option<u32>,
    text: String,
}

impl OAuthError {
    fn new(status: u16, error: &str, number: u32, text: &str) -> Self {
        Self {
            status,
            error: error.to_owned(),
            number: Some(number),
            text: text.to_owned(),
        }
    }

    fn outgoing(&self) -> Outgoing {
        let (trace, correlation) = (Uuid::new_v4(), Uuid::new_v4());
        let timestamp = Utc::now().format("%Y-%m-%d %H:%M:%SZ").to_string();
        let description = match self.number {
            Some(number) => format!(
                "AADSTS{number}: {} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {timestamp}",
                self.text
            ),
            None => self.text.clone(),
        };
        let mut body = json!({
            "error": self.error, "error_description": description,
            "error_codes": self.number.map_or_else(Vec::new, |number| vec![number]),
            "timestamp": timestamp, "trace_id": trace, "correlation_id": correlation,
        });
        if let (Some(number), Some(fields)) = (self.number, body.as_object_mut()) {
            let help = format!("https://login.microsoftonline.com/error?code={number}");
            fields.insert("error_uri".to_owned(), Value::String(help));
        }
        json_answer(self.status, &body)
    }
}
