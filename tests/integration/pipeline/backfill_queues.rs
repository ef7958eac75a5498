//! Tests a backfill while one of its queues fails: nothing that is still to be done is
//! acknowledged, saved or forgotten.

use backfill::{Backfill, BackfillError};
use chrono::TimeDelta;
use mailverse::clients::aws::queue::Received;
use mailverse::model::sync_request::SyncRequest;
use mailverse::pipeline::{Delivery, Invocation};
use serde_json::{Value, json};

use super::backfill::{OLD, delivery, fill, numbers, use_small_pages};
use crate::failing_queue::{FailingQueue, SendFault};
use crate::test_organisation::{ADA, TestOrganisation, status, throttled, written};

const FAULTS: [SendFault; 2] = [SendFault::Refused, SendFault::AnswerLost];

/// A backfill function with queues that can fail.
struct Queues {
    backfill: Backfill<FailingQueue>,
    tasks: FailingQueue,
    sync: FailingQueue,
}

impl Queues {
    async fn of(organisation: &TestOrganisation) -> Self {
        let (tasks, sync) = (FailingQueue::default(), FailingQueue::default());
        let pipeline = organisation.another_pipeline().await;
        Self {
            backfill: Backfill::new(pipeline, sync.clone(), tasks.clone()),
            tasks,
            sync,
        }
    }

    async fn handle(
        &self,
        organisation: &mut TestOrganisation,
        event: &Value,
    ) -> Result<Value, BackfillError> {
        let run = organisation.begin();
        self.backfill.handle(event, &|| run).await
    }

    /// Requests the backfill of Ada's mailbox. Returns the id of the run.
    async fn ask(&self, organisation: &mut TestOrganisation) -> Value {
        let request = json!({"mailboxes": [ADA], "received_after": OLD - 1});
        self.handle(organisation, &request).await.unwrap()["run_id"].clone()
    }

    /// Fires the schedule.
    async fn plan(&self, organisation: &mut TestOrganisation) -> Result<Value, BackfillError> {
        let event = json!({"source": "aws.scheduler", "time": organisation.now.to_rfc3339()});
        self.handle(organisation, &event).await
    }

    async fn answer(&self, organisation: &mut TestOrganisation, run_id: &Value) -> Value {
        let asked = json!({"run_id": run_id});
        self.handle(organisation, &asked).await.unwrap()
    }

    fn receive(&self) -> Received {
        self.tasks.messages.receive(1).remove(0)
    }

    /// Delivers a task. Returns whether it was acknowledged, so that SQS deletes it.
    async fn deliver(&self, task: &Received, begin: &impl Fn() -> Invocation) -> bool {
        let event = delivery(&task.body, task.receive_count);
        let answer = self.backfill.handle(&event, begin).await.unwrap();
        answer["batchItemFailures"] == json!([])
    }

    /// Delivers a task with time enough to work on it.
    async fn deliver_in_time(&self, organisation: &mut TestOrganisation, task: &Received) -> bool {
        let run = organisation.begin();
        self.deliver(task, &|| run).await
    }

    /// Delivers every visible task, each of which must be acknowledged.
    async fn deliver_all(&self, organisation: &mut TestOrganisation) {
        while self.tasks.messages.visible() > 0 {
            let task = self.receive();
            assert!(self.deliver_in_time(organisation, &task).await, "{task:?}");
        }
    }
}

#[tokio::test]
async fn a_task_that_runs_out_of_time_is_acknowledged_only_if_it_was_queued_again() {
    // After the first page was saved, and before it is settled.
    for (left, saved) in [(59, 20), (29, 0)] {
        for fault in [None, Some(SendFault::Refused), Some(SendFault::AnswerLost)] {
            let of = format!("{left} s left, {fault:?}");
            let mut organisation = TestOrganisation::start().await;
            fill(&organisation, ADA, "m", 25, "INBOX");
            let queues = Queues::of(&organisation).await;
            let run_id = queues.ask(&mut organisation).await;
            use_small_pages(&organisation, &run_id, ADA).await;
            let task = queues.receive();
            if let Some(fault) = fault {
                queues.tasks.fail_send_of(run_id.as_str().unwrap(), fault);
            }
            let begin = organisation.begin_until_page(1, TimeDelta::seconds(left));
            let is_acknowledged = queues.deliver(&task, &begin).await;
            assert_eq!(is_acknowledged, fault.is_none(), "{of}");
            assert_eq!(queues.tasks.faults_left(), 0, "{of}");
            let is_queued = fault != Some(SendFault::Refused);
            assert_eq!(
                queues.tasks.messages.visible(),
                usize::from(is_queued),
                "{of}"
            );
            let answer = queues.answer(&mut organisation, &run_id).await;
            assert_eq!(
                (&answer["ended"], numbers(&answer)[0]),
                (&json!(false), saved),
                "{of}"
            );

            organisation.later(TimeDelta::hours(1));
            if !is_acknowledged {
                assert!(
                    queues.deliver_in_time(&mut organisation, &task).await,
                    "{of}"
                );
            }
            queues.deliver_all(&mut organisation).await;
            let answer = queues.answer(&mut organisation, &run_id).await;
            assert_eq!(answer["ended"], json!(true), "{of}: {answer}");
            assert_eq!(numbers(&answer), [25, 25, 0, 0, 0], "{of}");
            assert_eq!(organisation.emails().len(), 25, "{of}");
        }
    }
}

#[tokio::test]
async fn a_postponed_task_is_acknowledged_on_its_last_delivery_only_if_it_was_queued_again() {
    for fault in [None, Some(SendFault::Refused), Some(SendFault::AnswerLost)] {
        let mut organisation = TestOrganisation::start().await;
        fill(&organisation, ADA, "m", 3, "INBOX");
        let queues = Queues::of(&organisation).await;
        let run_id = queues.ask(&mut organisation).await;
        let task = Received {
            receive_count: 10,
            ..queues.receive()
        };
        organisation.fail_nylas_at("/messages?", throttled("rate_limit_error", 77));
        if let Some(fault) = fault {
            queues.tasks.fail_send_of(run_id.as_str().unwrap(), fault);
        }
        let is_acknowledged = queues.deliver_in_time(&mut organisation, &task).await;
        assert_eq!(is_acknowledged, fault.is_none(), "{fault:?}");
        let hidden_tasks = queues.tasks.messages.hidden().len();
        assert_eq!(
            hidden_tasks,
            usize::from(fault != Some(SendFault::Refused)),
            "{fault:?}"
        );
    }
}

#[tokio::test]
async fn a_parked_task_is_forgotten_only_once_it_is_queued() {
    for fault in FAULTS {
        let mut organisation = TestOrganisation::start().await;
        fill(&organisation, ADA, "m", 3, "INBOX");
        let queues = Queues::of(&organisation).await;
        let nylas = organisation.emulators.nylas().clone();
        nylas.set_grant_status(ADA, "invalid");
        let run_id = queues.ask(&mut organisation).await;
        assert_eq!(queues.tasks.messages.visible(), 0, "the task is parked");
        nylas.set_grant_status(ADA, "valid");
        queues.tasks.fail_send_of(run_id.as_str().unwrap(), fault);
        let planned = queues.plan(&mut organisation).await;
        assert!(
            matches!(planned, Err(BackfillError::Queue(_))),
            "{planned:?}"
        );
        let planned = queues.plan(&mut organisation).await.unwrap();
        assert_eq!(planned["unparked"], 1, "{fault:?}");
        queues.deliver_all(&mut organisation).await;
        let answer = queues.answer(&mut organisation, &run_id).await;
        assert_eq!(answer["ended"], json!(true), "{fault:?}: {answer}");
        assert_eq!(numbers(&answer), [3, 3, 0, 0, 0], "{fault:?}");
        assert_eq!(organisation.emails().len(), 3, "{fault:?}");
        let planned = queues.plan(&mut organisation).await.unwrap();
        assert_eq!(planned["unparked"], 0, "{fault:?}");
    }
}

#[tokio::test]
async fn a_page_is_saved_only_once_each_message_that_must_wait_is_queued() {
    for fault in FAULTS {
        let mut organisation = TestOrganisation::start().await;
        fill(&organisation, ADA, "m", 4, "INBOX");
        let file = json!({"id": "a1", "filename": "Offer.pdf", "content_type": "application/pdf"});
        let nylas = organisation.emulators.nylas().clone();
        nylas.add_attachment(ADA, "m1", file, b"%PDF".to_vec());
        let queues = Queues::of(&organisation).await;
        let run_id = queues.ask(&mut organisation).await;
        let task = queues.receive();
        queues.sync.fail_send_of("\"m1\"", fault);
        organisation.fail_nylas_at("/attachments/", status(504, "provider_error"));
        let is_acknowledged = queues.deliver_in_time(&mut organisation, &task).await;
        assert!(!is_acknowledged, "{fault:?}");
        let answer = queues.answer(&mut organisation, &run_id).await;
        assert_eq!(answer["ended"], json!(false), "{fault:?}: {answer}");
        assert_eq!(numbers(&answer), [0, 0, 0, 0, 0], "{fault:?}");

        // The message fails again when the page is listed again, and now it is queued.
        organisation.later(TimeDelta::minutes(2));
        organisation.fail_nylas_at("/attachments/", status(504, "provider_error"));
        let is_acknowledged = queues.deliver_in_time(&mut organisation, &task).await;
        assert!(is_acknowledged, "{fault:?}");
        let answer = queues.answer(&mut organisation, &run_id).await;
        assert_eq!(answer["ended"], json!(true), "{fault:?}: {answer}");
        assert_eq!(numbers(&answer), [4, 3, 0, 1, 0], "{fault:?}");
        let (hidden_request, delay) = queues.sync.messages.hidden().pop().unwrap();
        let request = SyncRequest::from_body(&hidden_request.body).unwrap();
        organisation.later(TimeDelta::from_std(delay).unwrap());
        let delivery = Delivery {
            request,
            message: None,
            receive_count: 1,
        };
        let processed = organisation.run(vec![delivery]).await;
        written(&processed[0].outcome);
        assert_eq!(organisation.emails().len(), 4, "{fault:?}");
    }
}
