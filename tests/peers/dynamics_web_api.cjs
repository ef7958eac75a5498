// The npm package dynamics-web-api at work on the emulators. Started by run.py; README.md says what was found.

const assert = require("node:assert/strict");
const fs = require("node:fs");
const { randomUUID } = require("node:crypto");
const { setTimeout: pause } = require("node:timers/promises");
const { DynamicsWebApi } = require("dynamics-web-api");

const emulators = JSON.parse(process.env.EMULATORS);
const collection = "emails";
const parties = "email_activity_parties";
// Ids of rows that later steps need.
const [ada, ben, first] = [randomUUID(), randomUUID(), randomUUID()];

/** The emulators' own commands, which no client can see. The answer is one line. */
function control(command) {
  fs.writeSync(Number(process.env.EMULATORS_COMMANDS), JSON.stringify(command) + "\n");
  const chunk = Buffer.alloc(65536);
  let line = "";
  while (!line.endsWith("\n")) {
    const length = fs.readSync(Number(process.env.EMULATORS_ANSWERS), chunk);
    assert.ok(length > 0, "the emulators have ended");
    line += chunk.toString("utf8", 0, length);
  }
  return JSON.parse(line);
}

/** Client credentials from the emulators' Entra. The client asks anew for every request, so the token is kept. */
let token;
async function onTokenRefresh() {
  if (!token) {
    const form = new URLSearchParams({
      grant_type: "client_credentials",
      client_id: emulators.client_id,
      client_secret: emulators.client_secret,
      scope: `${emulators.dataverse_url}/.default`,
    });
    const answer = await fetch(`${emulators.authority}/${emulators.tenant_id}/oauth2/v2.0/token`, { method: "POST", body: form });
    assert.equal(answer.status, 200);
    token = (await answer.json()).access_token;
  }
  return token;
}

const config = { serverUrl: emulators.dataverse_url, dataApi: { version: "9.2" }, onTokenRefresh };
const client = new DynamicsWebApi(config);
// The same, but it throws also what the other returns as null or false.
const strict = new DynamicsWebApi({ ...config, propagateErrors: true });

/** Waits for what has to fail, and compares status and code as the client reports them. */
async function refused(status, code, promise) {
  const error = await promise.then(
    (result) => assert.fail(`${JSON.stringify(result)} instead of a refusal`),
    (thrown) => thrown,
  );
  assert.deepEqual([error.status, error.code], [status, code], error.stack);
  return error;
}

async function subjects(start) {
  const rows = await client.retrieveAll({ collection, select: ["subject"], filter: `startswith(subject,'${start}')` });
  return rows.value.map((row) => row.subject);
}

const steps = {
  async "says who it is"() {
    const me = await client.callFunction("WhoAmI");
    const user = await client.retrieve({ collection: "systemusers", key: me.UserId, select: ["applicationid"] });
    assert.equal(user.applicationid, emulators.client_id);
  },

  async "creates two people under ids of its own"() {
    const people = { [ada]: ["Ada", "Lark"], [ben]: ["Ben", "O'Wren"] };
    for (const [contactid, [firstname, lastname]] of Object.entries(people)) {
      assert.equal(await client.create({ collection: "contacts", data: { contactid, firstname, lastname } }), contactid);
    }
  },

  async "creates an email with its parties and what it regards, and gets the row back"() {
    const data = {
      activityid: first,
      subject: "Kites, 'ropes' & knots – 100 %",
      description: "<p>Ünïcode 🪁</p>",
      directioncode: false,
      actualend: "2026-03-04T05:06:07Z",
      "regardingobjectid_contact_email@odata.bind": `contacts(${ada})`,
      [parties]: [
        { participationtypemask: 1, "partyid_contact@odata.bind": `contacts(${ada})` },
        { participationtypemask: 2, "partyid_contact@odata.bind": `contacts(${ben})`, addressused: "ben@example.com" },
        { participationtypemask: 3, addressused: "nobody@example.com" },
      ],
    };
    const row = await client.create({ collection, data, returnRepresentation: true, select: ["subject", "directioncode"] });
    assert.deepEqual([row.activityid, row.subject, row.directioncode], [first, data.subject, false]);
  },

  async "reads it back with its parties and with annotations"() {
    const row = await client.retrieve({
      collection,
      key: first,
      select: ["subject", "description", "actualend", "statuscode", "_regardingobjectid_value"],
      expand: [{ property: parties, select: ["participationtypemask", "addressused", "_partyid_value"] }],
      includeAnnotations: "*",
    });
    assert.equal(row.description, "<p>Ünïcode 🪁</p>");
    assert.equal(row.actualend.toISOString(), "2026-03-04T05:06:07.000Z");
    assert.deepEqual([row.statuscode_Formatted, row._regardingobjectid_value_LogicalName], ["Draft", "contact"]);
    const sent = row[parties].filter((party) => party.participationtypemask < 5);
    assert.deepEqual(sent.map((party) => [party.participationtypemask, party._partyid_value]), [[1, ada], [2, ben], [3, null]]);
    assert.deepEqual(sent.slice(1).map((party) => party.addressused), ["ben@example.com", "nobody@example.com"]);
  },

  async "replaces all parties by PUT, and can do so in no other way"() {
    const two = [
      { participationtypemask: 1, "partyid_contact@odata.bind": `/contacts(${ben})` },
      { participationtypemask: 2, addressused: "new@example.com" },
    ];
    await client.updateSingleProperty({ collection, key: first, fieldValuePair: { [parties]: two } });
    const row = await client.retrieve({ collection, key: first, select: ["subject"], expand: [{ property: parties }] });
    const masks = row[parties].map((party) => party.participationtypemask).filter((mask) => mask < 5);
    assert.deepEqual(masks, [1, 2]);
    await refused(400, "0x80048d19", client.update({ collection, key: first, data: { [parties]: two } }));
    await refused(405, "0x80060888", client.create({ collection: "activityparties", data: { participationtypemask: 2 } }));
  },

  async "creates seven emails in two change sets of a batch, which is one request"() {
    const before = control("look").requests;
    client.startBatch();
    for (let number = 1; number <= 7; number += 1) {
      client.create({ collection, data: { subject: `page ${number}`, prioritycode: number % 3 } });
      // A read ends a change set. The client numbers the operations of the next one from the start again.
      if (number === 4) client.retrieve({ collection: "contacts", key: ben, select: ["lastname"] });
    }
    const answers = await client.executeBatch();
    assert.equal(answers[4].lastname, "O'Wren");
    assert.equal(new Set(answers.toSpliced(4, 1)).size, 7);
    assert.equal(control("look").requests - before, 1);
  },

  async "follows the links from page to page, by hand and by itself"() {
    const query = { collection, select: ["subject"], filter: "startswith(subject,'page ')", orderBy: ["subject desc"] };
    const pages = [];
    for (let link; link !== null; ) {
      const page = await client.retrieveMultiple({ ...query, maxPageSize: 3, count: true }, link);
      assert.equal(page.oDataCount, 7);
      pages.push(page.value.map((row) => row.subject.slice(-1)).join(""));
      link = page.oDataNextLink ?? null;
    }
    assert.deepEqual(pages, ["765", "432", "1"]);
    assert.equal((await client.retrieveAll({ ...query, maxPageSize: 2 })).value.length, 7);
    assert.equal((await client.retrieveMultiple({ ...query, top: 2 })).value.length, 2);
    assert.equal(await client.count({ collection, filter: query.filter }), 7);
    assert.equal(await client.count({ collection }), 8);
  },

  async "asks by lookup, by In with parameters, and for what an email regards"() {
    const select = ["subject"];
    const names = { filter: "Microsoft.Dynamics.CRM.In(PropertyName=@p1,PropertyValues=@p2)" };
    names.queryParams = ["@p1='subject'", `@p2=${encodeURIComponent('["page 1","PAGE 7","page 9"]')}`];
    const some = await client.retrieveMultiple({ collection, select, ...names, orderBy: ["subject"] });
    assert.deepEqual(some.value.map((row) => row.subject), ["page 1", "page 7"]);
    const expand = [{ property: "regardingobjectid_contact_email", select: ["lastname"] }];
    const about = await client.retrieveMultiple({ collection, select, expand, filter: `_regardingobjectid_value eq {${ada}}` });
    assert.deepEqual(about.value.map((row) => row.regardingobjectid_contact_email.lastname), ["Lark"]);
  },

  async "turns a query that is too long for it into a batch"() {
    const filter = Array.from({ length: 60 }, (_, number) => `subject eq 'page ${number} and nothing else'`).join(" or ");
    const rows = await client.retrieveMultiple({ collection, select: ["subject"], filter: `${filter} or subject eq 'page 5'` });
    assert.deepEqual(rows.value.map((row) => row.subject), ["page 5"]);
  },

  async "changes an email, and never makes one by a change"() {
    await client.update({ collection, key: first, data: { subject: "Kites" } });
    const row = await client.update({ collection, key: first, data: { category: "sky" }, returnRepresentation: true });
    assert.deepEqual([row.subject, row.category], ["Kites", "sky"]);
    await refused(404, "0x80040217", client.update({ collection, key: randomUUID(), data: { subject: "x" } }));
  },

  async "changes only the version that it has seen"() {
    const seen = await client.retrieve({ collection, key: first, select: ["subject"] });
    const change = { collection, key: first, ifmatch: seen["@odata.etag"], data: { subcategory: "a" } };
    assert.equal(await client.update(change), true);
    assert.equal(await client.update(change), false);
    await refused(412, "0x80060882", strict.update(change));
    await refused(412, "0x80060882", strict.deleteRecord({ collection, key: first, ifmatch: seen["@odata.etag"] }));
  },

  async "upserts: makes, changes, only makes (If-None-Match), only changes (If-Match)"() {
    const [key, missing] = [randomUUID(), randomUUID()];
    const upsert = (subject, more) => ({ collection, key, data: { subject }, ...more });
    assert.equal(await client.upsert(upsert("made", { ifnonematch: "*" })), key);
    assert.equal(await client.upsert(upsert("changed")), key);
    assert.equal(await client.upsert(upsert("not this", { ifnonematch: "*" })), null);
    await refused(412, "0x80040237", strict.upsert(upsert("not this", { ifnonematch: "*" })));
    assert.equal(await client.upsert(upsert("nor this", { key: missing, ifmatch: "*" })), null);
    await refused(404, "0x80040217", strict.upsert(upsert("nor this", { key: missing, ifmatch: "*" })));
    const row = await client.upsert(upsert("kept", { ifmatch: "*", returnRepresentation: true, select: ["subject"] }));
    assert.equal(row.subject, "kept");
  },

  async "finds, makes and changes by alternate key"() {
    control({ add_key: ["email", "new_key"] });
    const key = "new_key='a1b2'";
    await refused(404, "0x80060891", client.retrieve({ collection, key, select: ["subject"] }));
    const id = await client.upsert({ collection, key, data: { subject: "once" } });
    assert.equal(await client.upsert({ collection, key, data: { subject: "twice" } }), id);
    assert.equal((await client.retrieve({ collection, key, select: ["subject"] })).subject, "twice");
    await refused(412, "0x80060892", client.create({ collection, data: { new_key: "A1B2" } }));
  },

  async "takes what it regards away, and deletes, and then finds nothing"() {
    const navigationProperty = "regardingobjectid_contact_email";
    await client.disassociateSingleValued({ collection, primaryKey: first, navigationProperty });
    const row = await client.retrieve({ collection, key: first, select: ["_regardingobjectid_value"] });
    assert.equal(row._regardingobjectid_value, null);
    const key = await client.create({ collection, data: { subject: "short-lived" } });
    await client.deleteRecord({ collection, key });
    await refused(404, "0x80040217", client.retrieve({ collection, key, select: ["subject"] }));
    await refused(404, "0x80040217", client.deleteRecord({ collection, key }));
  },

  async "one change set creates an email, attaches a file to $1 and completes $1"() {
    client.startBatch();
    client.create({ collection, contentId: "1", data: { subject: "whole", directioncode: false } });
    const file = { objecttypecode: "email", filename: "a.txt", mimetype: "text/plain", body: "YQ==" };
    client.create({ collection: "activitymimeattachments", data: { ...file, "objectid_activitypointer@odata.bind": "$1" } });
    client.update({ contentId: "$1", data: { statecode: 1, statuscode: 4 } });
    const [key, , completed] = await client.executeBatch();
    assert.equal(completed, true);
    const row = await client.retrieve({ collection, key, select: ["statecode", "statuscode", "attachmentcount"] });
    assert.deepEqual([row.statecode, row.statuscode, row.attachmentcount], [1, 4, 1]);
    await refused(400, "0x80043500", client.update({ collection, key, data: { subject: "too late" } }));
  },

  async "a change set that fails leaves nothing and harms no neighbour, in both shapes of its answer"() {
    for (const bare of [false, true]) {
      control({ bare_change_set_errors: bare });
      const name = failingBatch();
      const [read, failure, kept] = await client.executeBatch({ continueOnError: true });
      assert.deepEqual([read.lastname, failure.status, failure.error.code], ["O'Wren", 412, "0x80040237"]);
      assert.ok(kept);
      assert.deepEqual(await subjects(name), [`${name} kept`]);
    }
    control({ bare_change_set_errors: false });
  },

  async "without continue-on-error the batch ends at the failure, and all parts up to it are handed on"() {
    const name = failingBatch();
    const [read, failure, ...rest] = await client.executeBatch().then(assert.fail, (thrown) => thrown);
    assert.deepEqual([read.lastname, failure.status, failure.error.code], ["O'Wren", 412, "0x80040237"]);
    assert.deepEqual(rest, []);
    assert.deepEqual(await subjects(name), []);
  },

  async "reports each refusal with its status and code"() {
    const create = (data) => client.create({ collection, data });
    await refused(400, "0x80048d19", create({ no_such_column: 1 }));
    await refused(400, "0x80048d19", create({ subject: 5 }));
    await refused(400, "0x80048d19", create({ "regardingobjectid_Contact_email@odata.bind": `/contacts(${ada})` }));
    await refused(404, "0x80040217", create({ "regardingobjectid_contact_email@odata.bind": `/contacts(${randomUUID()})` }));
    await refused(400, "0x80044331", create({ subject: "x".repeat(801) }));
    await refused(400, "0x80048408", create({ subject: "x", statuscode: 4 }));
    await refused(412, "0x80040237", create({ activityid: first }));
    await refused(400, "0x80060888", client.retrieveMultiple({ collection, select: ["no_such_column"] }));
    await refused(400, "0x80060888", client.retrieveMultiple({ collection, filter: "no_such_column eq 1" }));
    await refused(404, "0x8006088A", client.retrieveMultiple({ collection: "no_such_set" }));
    const detailed = await refused(400, "0x80048d19", client.create({ collection, data: { nope: 1 }, includeAnnotations: "*" }));
    assert.ok(detailed["@Microsoft.PowerApps.CDS.HelpLink"]);
  },

  async "finds the names of sets and the lengths of columns in the definitions"() {
    const byName = new DynamicsWebApi({ ...config, useEntityNames: true });
    assert.equal((await byName.retrieve({ collection: "email", key: first, select: ["subject"] })).subject, "Kites");
    const texts = await client.retrieveAttributes({
      entityKey: "LogicalName='email'",
      castType: "Microsoft.Dynamics.CRM.StringAttributeMetadata",
      select: ["LogicalName", "MaxLength"],
    });
    const subject = texts.value.find((column) => column.LogicalName === "subject");
    assert.equal(subject.MaxLength, 800);
  },

  async "hands on a 429 with its Retry-After, and is let in after that time"() {
    const read = () => client.retrieve({ collection, key: first, select: ["subject"] });
    const before = control({ refuse: [429, "0x80072322", 1] }).requests;
    const error = await refused(429, "0x80072322", read());
    assert.deepEqual([error.headers["retry-after"], control("look").requests - before], ["1", 1]);
    await pause(Number(error.headers["retry-after"]) * 1000);
    assert.equal((await read()).subject, "Kites");
  },

  async "hands on a lost connection; a create that is repeated makes no second row, since the row has an id"() {
    const [activityid, before] = [randomUUID(), control("reset_before").requests];
    const create = () => client.create({ collection, data: { activityid, subject: activityid } });
    await assert.rejects(create(), { code: "ECONNRESET" });
    control("reset_after_commit");
    await assert.rejects(create(), { code: "ECONNRESET" });
    await refused(412, "0x80040237", create());
    assert.equal(control("look").requests - before, 3);
    assert.deepEqual(await subjects(activityid), [activityid]);
  },

  async "nothing that it sent was dropped"() {
    assert.deepEqual(control("look").dropped, []);
  },

  async "a read-only column is dropped without a word, and the emulator says so"() {
    const key = await client.create({ collection, data: { subject: "x", senton: "2026-03-04T05:06:07Z" } });
    assert.equal((await client.retrieve({ collection, key, select: ["senton"] })).senton, null);
    assert.deepEqual(control("look").dropped, [["email", "senton"]]);
  },
};

/** Starts a batch: a read, a change set whose second operation repeats an id, and a create behind it. */
function failingBatch() {
  const name = randomUUID();
  client.startBatch();
  client.retrieve({ collection: "contacts", key: ben, select: ["lastname"] });
  client.create({ collection, data: { subject: `${name} lost` } });
  client.create({ collection, data: { activityid: first, subject: `${name} repeated` } });
  client.create({ collection, data: { subject: `${name} kept` }, inChangeSet: false });
  return name;
}

async function main() {
  const { version } = require(`${process.env.NODE_PATH}/dynamics-web-api/package.json`);
  console.log(`dynamics-web-api ${version}, Node ${process.version}`);
  let failed = 0;
  for (const [title, step] of Object.entries(steps)) {
    try {
      await step();
      console.log(`  ok    ${title}`);
    } catch (error) {
      failed += 1;
      console.log(`  FAIL  ${title}`);
      console.log(error);
    }
  }
  console.log(`${Object.keys(steps).length - failed} passed, ${failed} failed`);
  process.exit(failed === 0 ? 0 : 1);
}

main();
