//! Answers GET requests: one row, a page of rows, or a count (Dataverse facts §14).

use std::cmp::Ordering;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::filter;
use super::matching::{self, Condition};
use super::options::{Expand, LARGEST_PAGE, Options, Prefer};
use super::org::Work;
use super::path::ROOT;
use super::privileges::Privilege;
use super::refusal::Refusal;
use super::schema::{Column, Kind, Table};
use super::store::Row;

const LOOKUP_TABLE: &str = "Microsoft.Dynamics.CRM.lookuplogicalname";
const LOOKUP_NAVIGATION: &str = "Microsoft.Dynamics.CRM.associatednavigationproperty";
const FORMATTED: &str = "OData.Community.Display.V1.FormattedValue";

/// A row with its id.
type Found = (Uuid, Arc<Row>);

impl Work<'_> {
    /// Returns one row as the body of an answer.
    pub(crate) fn entity(
        &self,
        table: &Table,
        id: Uuid,
        options: &Options,
        prefer: &Prefer,
    ) -> Result<Value, Refusal> {
        self.require(Privilege::Read, &table.name)?;
        self.check_names(table, options)?;
        let row = self
            .org
            .store
            .get(&table.name, id)
            .ok_or_else(|| Refusal::no_row(&table.name, id))?;
        let mut body = Map::new();
        body.insert(
            "@odata.context".to_owned(),
            json!(self.context(&format!("{}/$entity", table.set))),
        );
        body.extend(self.render(table, &row, options, prefer)?);
        Ok(Value::Object(body))
    }

    /// Returns a page of rows. `query` is the raw text after the question mark; the link to the
    /// next page repeats it.
    pub(crate) fn page(
        &self,
        table: &Table,
        query: &str,
        options: &Options,
        prefer: &Prefer,
    ) -> Result<Value, Refusal> {
        self.require(Privilege::Read, &table.name)?;
        self.check_names(table, options)?;
        let rows = select_rows(table, self.org.store.rows(&table.name), options)?;
        let (start, size) = match &options.skip_token {
            Some(token) => read_token(token)?,
            None => (0, prefer.max_page_size.unwrap_or(LARGEST_PAGE)),
        };
        // `$top` disables paging, since the two cannot be combined.
        let size = options
            .top
            .or(prefer.max_page_size)
            .unwrap_or(size)
            .min(LARGEST_PAGE);
        let shown = rows.iter().skip(start).take(size);
        let value = shown
            .map(|(_, row)| self.render(table, row, options, prefer).map(Value::Object))
            .collect::<Result<Vec<_>, _>>()?;
        let mut body = Map::new();
        body.insert("@odata.context".to_owned(), json!(self.context(&table.set)));
        if options.count {
            body.insert(
                "@odata.count".to_owned(),
                json!(rows.len().min(LARGEST_PAGE)),
            );
        }
        let end = start + value.len();
        body.insert("value".to_owned(), Value::Array(value));
        if options.top.is_none() && end < rows.len() {
            let kept = query
                .split('&')
                .filter(|part| !part.is_empty() && !part.starts_with("$skiptoken="));
            let token = format!(
                "$skiptoken={}",
                URL_SAFE_NO_PAD.encode(format!("{end}:{size}"))
            );
            let query = kept
                .chain([token.as_str()])
                .collect::<Vec<_>>()
                .join("&")
                .replace(' ', "%20");
            let link = format!("{}{ROOT}{}?{query}", self.org.url, table.set);
            body.insert("@odata.nextLink".to_owned(), json!(link));
        }
        Ok(Value::Object(body))
    }

    /// Returns the number of rows that match the filter, as `$count` reports it: at most 5,000.
    pub(crate) fn count(&self, table: &Table, options: &Options) -> Result<usize, Refusal> {
        self.require(Privilege::Read, &table.name)?;
        Ok(
            select_rows(table, self.org.store.rows(&table.name), options)?
                .len()
                .min(LARGEST_PAGE),
        )
    }

    /// Rejects names that the table does not have, even if no row is returned.
    fn check_names(&self, table: &Table, options: &Options) -> Result<(), Refusal> {
        for name in options.select.iter().flatten() {
            table
                .property(name)
                .ok_or_else(|| Refusal::unknown_column(&table.name, name))?;
        }
        if let Some(text) = &options.filter {
            matching::check(table, &filter::parse(text, &options.aliases)?)?;
        }
        for expand in &options.expand {
            let navigation = table
                .navigations
                .get(&expand.name)
                .map(|navigation| navigation.target.as_str());
            let target = child_table(table, &expand.name)
                .or(navigation)
                .ok_or_else(|| Refusal::unknown_column(&table.name, &expand.name))?;
            // A lookup of owners or activities has several target tables, so its names are checked
            // when a row is rendered.
            if let Some(target) = self.schema.table(target) {
                self.check_names(target, &expand.options)?;
            }
        }
        Ok(())
    }

    /// Returns a row as JSON, with the selected columns and expanded navigations.
    fn render(
        &self,
        table: &Table,
        row: &Row,
        options: &Options,
        prefer: &Prefer,
    ) -> Result<Map<String, Value>, Refusal> {
        let mut body = Map::new();
        body.insert("@odata.etag".to_owned(), json!(row.etag()));
        if let Some(names) = &options.select {
            // The key is always returned.
            for name in names.iter().chain([&table.key]) {
                let column = table
                    .property(name)
                    .ok_or_else(|| Refusal::unknown_column(&table.name, name))?;
                self.render_column(table, row, column, prefer, &mut body);
            }
        } else {
            // `messageiddupcheck` is not valid for read (Dataverse facts §2.1).
            let shown = |column: &&Column| !column.hidden && column.name != "messageiddupcheck";
            for column in table.columns.values().filter(shown) {
                self.render_column(table, row, column, prefer, &mut body);
            }
        }
        for expand in &options.expand {
            let value = self.expand(table, row, expand, prefer)?;
            body.insert(expand.name.clone(), value);
        }
        Ok(body)
    }

    fn render_column(
        &self,
        table: &Table,
        row: &Row,
        column: &Column,
        prefer: &Prefer,
        body: &mut Map<String, Value>,
    ) {
        let property = column.property();
        if column.kind == Kind::Lookup {
            self.render_lookup(table, row, column, prefer, body);
            return;
        }
        let value = row.get(&column.name).clone();
        let label = column
            .options
            .iter()
            .find(|(option, _)| value.as_i64() == Some(*option))
            .map(|(_, label)| label);
        if let Some(label) = label.filter(|_| prefer.wants(FORMATTED)) {
            body.insert(format!("{property}@{FORMATTED}"), json!(label));
        }
        body.insert(property, value);
    }

    fn render_lookup(
        &self,
        table: &Table,
        row: &Row,
        column: &Column,
        prefer: &Prefer,
        body: &mut Map<String, Value>,
    ) {
        let property = column.property();
        let Some((target, id)) = row.lookup(&column.name) else {
            body.insert(property, Value::Null);
            return;
        };
        let title = self
            .schema
            .table(&target)
            .zip(self.org.store.get(&target, id));
        let title = title.map(|(table, row)| row.get(&table.title).clone());
        let navigation = table.navigations.values().find(|navigation| {
            navigation.column == column.name
                && [target.as_str(), "owner"].contains(&navigation.target.as_str())
        });
        let annotations = [
            (LOOKUP_TABLE, Some(json!(target))),
            (
                LOOKUP_NAVIGATION,
                navigation.map(|navigation| json!(navigation.name)),
            ),
            (FORMATTED, title.filter(|title| !title.is_null())),
        ];
        for (name, value) in annotations {
            if let Some(value) = value.filter(|_| prefer.wants(name)) {
                body.insert(format!("{property}@{name}"), value);
            }
        }
        body.insert(property, json!(id));
    }

    fn expand(
        &self,
        table: &Table,
        row: &Row,
        expand: &Expand,
        prefer: &Prefer,
    ) -> Result<Value, Refusal> {
        if let Some(child) = child_table(table, &expand.name) {
            let own = row
                .text(&table.key)
                .and_then(|text| Uuid::try_parse(text).ok())
                .unwrap_or_default();
            let child = self
                .schema
                .table(child)
                .ok_or_else(|| Refusal::no_segment(&expand.name))?;
            let rows = select_rows(
                child,
                self.org.store.children(&child.name, own),
                &expand.options,
            )?;
            let shown = rows.iter().take(expand.options.top.unwrap_or(LARGEST_PAGE));
            let rendered = shown.map(|(_, row)| {
                self.render(child, row, &expand.options, prefer)
                    .map(Value::Object)
            });
            return rendered.collect::<Result<Vec<_>, _>>().map(Value::Array);
        }
        let Some(navigation) = table.navigations.get(&expand.name) else {
            return Err(Refusal::unknown_column(&table.name, &expand.name));
        };
        let fits = |(target, _): &(String, Uuid)| {
            *target == navigation.target
                || matches!(
                    navigation.target.as_str(),
                    "owner" | "principal" | "activitypointer"
                )
        };
        let Some((target, id)) = row.lookup(&navigation.column).filter(fits) else {
            return Ok(Value::Null);
        };
        match self
            .schema
            .table(&target)
            .zip(self.org.store.get(&target, id))
        {
            Some((table, row)) => self
                .render(table, &row, &expand.options, prefer)
                .map(Value::Object),
            None => Ok(Value::Null),
        }
    }

    fn context(&self, rest: &str) -> String {
        format!("{}{ROOT}$metadata#{rest}", self.org.url)
    }
}

/// Returns the rows that match the filter, in the requested order.
fn select_rows(table: &Table, rows: Vec<Found>, options: &Options) -> Result<Vec<Found>, Refusal> {
    let condition = match &options.filter {
        Some(text) => matching::check(table, &filter::parse(text, &options.aliases)?)?,
        None => Condition::All(Vec::new()),
    };
    let mut order: Vec<(&Column, bool)> = Vec::new();
    for (property, down) in &options.order {
        order.push((matching::filterable(table, property)?, *down));
    }
    let mut rows: Vec<Found> = rows
        .into_iter()
        .filter(|(_, row)| condition.holds(table, row))
        .collect();
    rows.sort_by(|(_, a), (_, b)| {
        order
            .iter()
            .fold(Ordering::Equal, |decided, (column, down)| {
                decided.then_with(|| by(table, column, *down, a, b))
            })
    });
    Ok(rows)
}

/// Returns the child collections of an activity and their tables; empty for other tables. The names
/// for email are verified. Their use here and the names for appointment are inferred.
pub(crate) fn collections(table: &Table) -> Vec<(String, &'static str)> {
    let Some(parties) = table.parties() else {
        return Vec::new();
    };
    let attachments = "activitymimeattachment";
    vec![
        (parties, "activityparty"),
        (
            format!("{}_activity_mime_attachment", table.name),
            attachments,
        ),
        (
            "activity_pointer_activity_mime_attachment".to_owned(),
            attachments,
        ),
    ]
}

/// Returns the table of a child collection of an activity, or `None` if there is no such
/// collection.
pub(crate) fn child_table(table: &Table, collection: &str) -> Option<&'static str> {
    let mut known = collections(table).into_iter();
    known
        .find(|(name, _)| name == collection)
        .map(|(_, child)| child)
}

fn by(table: &Table, column: &Column, down: bool, a: &Row, b: &Row) -> Ordering {
    let a_value = matching::comparable(table, a, &column.name);
    let b_value = matching::comparable(table, b, &column.name);
    let nulls = |value| value == matching::Comparable::Null;
    let order = a_value
        .order(&b_value)
        .unwrap_or_else(|| nulls(b_value).cmp(&nulls(a_value)));
    if down { order.reverse() } else { order }
}

fn read_token(token: &str) -> Result<(usize, usize), Refusal> {
    let malformed = || Refusal::query("Malformed XML in the Paging Cookie");
    let text = URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(malformed)?;
    let (start, size) = text.split_once(':').ok_or_else(malformed)?;
    start
        .parse()
        .ok()
        .zip(size.parse().ok())
        .ok_or_else(malformed)
}
