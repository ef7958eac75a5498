//! Creates contacts and accounts.

use serde_json::Value;

use super::DataverseClient;
use super::batch::{Change, MOST_OPERATIONS, Operation};
use super::emails::{CreateOutcome, WriteMode, outcome};
use super::error::DataverseError;
use super::records::NewRow;
use super::session::Session;

impl DataverseClient {
    /// Creates rows that do not exist yet. Returns one result per row, in order.
    ///
    /// A row may refer to an earlier one. A failed row does not affect the others.
    ///
    /// [`CreateOutcome::AlreadyExisted`] is returned only after the row was read by its key:
    /// 0x80040237 may be about another key of the organisation (Dataverse facts §12), and is then a
    /// rejection.
    pub async fn create_rows(
        &self,
        session: &Session,
        rows: &[NewRow],
        mode: WriteMode,
    ) -> Vec<Result<CreateOutcome, DataverseError>> {
        let mut results = Vec::with_capacity(rows.len());
        for some in rows.chunks(MOST_OPERATIONS) {
            let together = match mode {
                WriteMode::ChangeSet => Some(self.create_together(session, some).await),
                WriteMode::Stepwise => None,
            };
            match together {
                Some(Ok(outcomes)) => results.extend(outcomes),
                None | Some(Err(DataverseError::TooLarge | DataverseError::Rejected { .. })) => {
                    for NewRow { record, row } in some {
                        results.push(self.create(session, record.table.set(), row).await);
                    }
                }
                Some(Err(error)) => results.extend(some.iter().map(|_| Err(error.clone()))),
            }
        }
        for (NewRow { record, .. }, result) in rows.iter().zip(&mut results) {
            if *result != Ok(CreateOutcome::AlreadyExisted) {
                continue;
            }
            let (set, key) = (record.table.set(), record.table.key());
            match self.row_exists(session, set, key, record.id).await {
                Ok(true) => {}
                Ok(false) => *result = Err(DataverseError::of_another_key()),
                Err(error) => *result = Err(error),
            }
        }
        results
    }

    /// Sends one change set per row, so that a row that already exists (412) does not roll the
    /// others back. Dataverse executes the parts of a batch in order (verified, Dataverse facts
    /// §9).
    async fn create_together(
        &self,
        session: &Session,
        rows: &[NewRow],
    ) -> Result<Vec<Result<CreateOutcome, DataverseError>>, DataverseError> {
        let post = |NewRow { record, row }: &NewRow| {
            Operation::ChangeSet(vec![Change {
                method: "POST",
                path: record.table.set().to_owned(),
                if_match: None,
                body: Value::Object(row.clone()),
            }])
        };
        let operations: Vec<Operation> = rows.iter().map(post).collect();
        let answers = self.batch(session, &operations).await?;
        Ok(answers.iter().map(|parts| outcome(parts)).collect())
    }
}
