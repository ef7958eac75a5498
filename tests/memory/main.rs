//! Measures how much memory the compiled sync-worker needs for the largest batches. Prints the peak
//! for each, and fails if one exceeds the memory of the function. Run it with `make memory`.
//!
//! The peak is `VmHWM` of the worker's process, as Linux counts it (`proc_pid_status(5)`): the most
//! memory that was resident at one time. Each batch has its own process, because the peak never
//! decreases.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement: a value that is not as expected is the failure to report"
)]

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use emulators::{Emulators, Grant};
use local_aws::lambda::Function;
use local_aws::{dynamo, events, moto};
use serde_json::{Value, json};

/// Returns the memory of the function from `template.yaml`, in kilobytes.
fn function_memory_kb() -> u64 {
    let template = include_str!("../../template.yaml");
    let (_, worker) = template.split_once("\n  SyncWorker:\n").unwrap();
    let (_, size) = worker.split_once("MemorySize: ").unwrap();
    let digits: String = size.chars().take_while(char::is_ascii_digit).collect();
    digits.parse::<u64>().unwrap() * 1024
}

const GRANT: &str = "grant-1";
const MEGABYTE: usize = 1_000_000;

/// A batch that is large in one respect.
struct Load {
    what: &'static str,
    messages: Vec<Value>,
    /// The number of files of each message, and the bytes of each file.
    files: (usize, usize),
}

fn message(id: usize, body: &str, recipients: usize) -> Value {
    let to: Vec<Value> = (0..recipients)
        .map(
            |n| json!({"name": format!("Person {n}"), "email": format!("person{n}@crowd.example")}),
        )
        .chain([json!({"email": "ada@ours.example"})])
        .collect();
    json!({
        "id": format!("m{id}"), "subject": "Kites", "body": body, "date": 1_795_150_000, "folders": ["INBOX"],
        "from": [{"email": "carol@kites.example"}], "to": to,
        "headers": [{"name": "Message-ID", "value": format!("<m{id}@kites.example>")}],
    })
}

/// Returns HTML with quotes, which must be escaped in JSON.
fn body(bytes: usize) -> String {
    r#"<p class="text">Two red ones, please.</p>"#.repeat(bytes / 41)
}

fn loads() -> Vec<Load> {
    let ten = |what, bytes: usize, files| Load {
        what,
        messages: (0..10).map(|n| message(n, &body(bytes), 1)).collect(),
        files,
    };
    vec![
        ten("ten small messages", 1_000, (0, 0)),
        Load {
            what: "one message with 10,000 recipients",
            messages: vec![message(0, &body(1_000), 10_000)],
            files: (0, 0),
        },
        ten("ten messages of 25 MB", 25 * MEGABYTE, (0, 0)),
        ten(
            "ten messages of 2 MB with eight files of 3.9 MB",
            2 * MEGABYTE,
            (8, 3_900_000),
        ),
    ]
}

/// Returns the peak of the worker, in kilobytes.
async fn measure(load: Load) -> u64 {
    let emulators = Emulators::start().await.unwrap();
    emulators.nylas().add_grant(Grant {
        id: GRANT.to_owned(),
        email: "ada@ours.example".to_owned(),
        provider: "google".to_owned(),
        aliases: Vec::new(),
        status: "valid".to_owned(),
    });
    let (count, (files, bytes)) = (load.messages.len(), load.files);
    for message in load.messages {
        let id = message["id"].as_str().unwrap().to_owned();
        emulators.nylas().add_message(GRANT, message);
        for n in 0..files {
            let file = json!({"id": format!("{id}-{n}"), "filename": format!("{n}.bin"), "content_type": "application/pdf"});
            emulators
                .nylas()
                .add_attachment(GRANT, &id, file, vec![7; bytes]);
        }
    }
    let moto = moto::Moto::start().await;
    let (sqs, secrets) = (moto.sqs(), moto.secrets());
    let database = dynamo::start().await;
    let client = dynamo::client(&database);
    mailverse::ledger::table::create(&client, "ledger")
        .await
        .unwrap();
    let queue = sqs.create_queue().queue_name("sync").send().await.unwrap();
    let queue = queue.queue_url.unwrap();
    let token = emulators
        .entra()
        .issue_token(&emulators.dataverse().url(), 3_600);
    let token = json!({
        "access_token": token, "expires_at": chrono::Utc::now().timestamp() + 3_600,
    });
    for (name, value) in [
        ("nylas", emulators.nylas().api_key()),
        ("token", token.to_string()),
    ] {
        let secret = secrets.create_secret().name(name).secret_string(value);
        secret.send().await.unwrap();
    }
    let settings = [
        ("AWS_REGION", "eu-north-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ("AWS_ENDPOINT_URL_SQS", moto.endpoint.clone()),
        ("AWS_ENDPOINT_URL_SECRETS_MANAGER", moto.endpoint.clone()),
        ("AWS_ENDPOINT_URL_DYNAMODB", database.clone()),
        ("DATAVERSE_URL", emulators.dataverse().url()),
        ("TOKEN_SECRET_ID", "token".to_owned()),
        ("NYLAS_API_URL", emulators.nylas().url()),
        ("NYLAS_API_KEY_SECRET_ID", "nylas".to_owned()),
        ("LEDGER_TABLE", "ledger".to_owned()),
        ("SYNC_QUEUE_URL", queue.clone()),
        ("MAILBOXES", "all".to_owned()),
        ("RUST_LOG", "warn".to_owned()),
    ];
    let mut worker = Function::start("sync-worker", &settings).await;
    for n in 0..count {
        let request = json!({"version": 1, "grant_id": GRANT, "message_id": format!("m{n}"), "trigger": "created"});
        let send = sqs.send_message().queue_url(&queue);
        send.message_body(request.to_string()).send().await.unwrap();
    }
    let batch = receive(&sqs, &queue).await;
    assert_eq!(batch.len(), count, "all messages must be in one batch");
    let response = worker.succeed(events::sqs_event(&batch)).await;
    let peak = worker.peak_memory().unwrap() / 1024;
    let printed = worker.stop().await;
    let failures = response["batchItemFailures"].as_array().unwrap().len();
    assert_eq!(failures, 0, "every message must be written\n{printed}");
    assert_eq!(emulators.dataverse().rows("email").len(), count);
    peak
}

async fn receive(sqs: &aws_sdk_sqs::Client, queue: &str) -> Vec<Message> {
    let call = sqs
        .receive_message()
        .queue_url(queue)
        .max_number_of_messages(10);
    let call = call.message_system_attribute_names(MessageSystemAttributeName::All);
    call.send().await.unwrap().messages.unwrap_or_default()
}

#[tokio::main]
async fn main() {
    let most = function_memory_kb();
    println!(
        "peak memory of the compiled sync-worker; the function has {} MiB",
        most / 1024
    );
    let mut above = 0;
    for load in loads() {
        let what = load.what;
        let peak = measure(load).await;
        println!("{:>6} MiB  {what}", peak.div_ceil(1024));
        above += u64::from(peak >= most);
    }
    assert_eq!(above, 0, "loads that exceed the memory of the function");
}
