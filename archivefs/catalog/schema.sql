-- The catalog: an index of the journal, and nothing that the journal does not say. It may be deleted at any time;
-- `archivefs rebuild` makes an equal one. Written only by Catalog.apply(event), one transaction per commit.
-- Times ending in _ms are Unix time in milliseconds (UTC), in _ns nanoseconds. Sizes are bytes.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,        -- schema: version of this file; applied_seq, applied_sha256: last journal line
    value ANY NOT NULL             --   that is in here; timezone, format: of the archive; verified_at, verified_part: of
                                   --   the last scheduled verification (UTC; from 1); config_before, config_after:
                                   --   SHA-256 of archive.toml before and after its last change that was noted;
                                   --   rules_seq: the last line that may protect entries from being purged, whichever;
                                   --   turned_back: the last entry (n) whose day is before that of the one before it, 0
                                   --   for none: then the order of capture is that of days
) STRICT, WITHOUT ROWID;

CREATE TABLE converters (
    converter_id INTEGER PRIMARY KEY, -- 1, 2, ... in the order of first capture; part of inode numbers
    name         TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE segments (
    segment_id INTEGER PRIMARY KEY, -- 1, 2, ... in the order of first use
    name       TEXT NOT NULL UNIQUE,-- path below content/, such as 2026/02/13/ict-csv.sources.zst
    end_bytes  INTEGER NOT NULL,    -- where the last record that the journal knows ends; the file should end there too
    packed     INTEGER NOT NULL,    -- up to where it was written by a repack, 0 for none
    gone       INTEGER NOT NULL     -- 1: nothing in it is needed any more, and its file is removed
) STRICT;

CREATE TABLE dictionaries (
    number    INTEGER PRIMARY KEY,  -- what frames name that need it
    name      TEXT NOT NULL UNIQUE, -- dictionaries/NAME.zdict
    converter TEXT NOT NULL,        -- whose contents it is for
    content   TEXT NOT NULL,        -- sources, reports; the newest of a converter and content without a day is in use
    samples   INTEGER NOT NULL,     -- how many contents it was made of, 0 where nobody knows
    size      INTEGER NOT NULL,     -- of the file, 0 where nobody knows
    sha256    TEXT NOT NULL,        -- of the file, '' where nobody knows
    day       TEXT NOT NULL,        -- YYYY-MM-DD: made for a repack of that day alone; '' else
    seq       INTEGER NOT NULL      -- journal line that says so
) STRICT;

CREATE TABLE code (               -- versions of converters' code that ever ran
    converter    TEXT NOT NULL,     -- whose code
    sha256       TEXT NOT NULL,     -- of converters/CONVERTER/SHA256.zip
    size         INTEGER NOT NULL,  -- of that file
    files        INTEGER NOT NULL,  -- how many files of code it holds
    run          TEXT NOT NULL,     -- the line of archive.toml
    distribution TEXT NOT NULL,     -- what was installed and ran, '' for none
    version      TEXT NOT NULL,     -- of that
    seq          INTEGER NOT NULL,  -- journal line that says so
    PRIMARY KEY (converter, sha256)
) STRICT, WITHOUT ROWID;

CREATE TABLE entries (
    n            INTEGER PRIMARY KEY, -- 1, 2, ... in the order of the journal; part of inode numbers
    id           TEXT NOT NULL UNIQUE,-- archive id, YYYYMMDDTHHMMSSmmm-xxxxxx
    converter_id INTEGER NOT NULL REFERENCES converters,
    day          INTEGER NOT NULL,    -- days since 1970-01-01 in the archive's time zone
    status       INTEGER NOT NULL,    -- position in states.STATUSES
    name         BLOB NOT NULL,       -- original name, exact bytes
    folder       BLOB NOT NULL,       -- sub-directory of the inbox it was saved in, '' for none
    flat_name    BLOB AS (iif(flat = x'', name, flat)), -- unique name within (converter, day), for sources/
    twin         INTEGER NOT NULL,    -- 1; 2, 3, ... for entries whose directory name would equal an earlier one's
    hex          TEXT AS (lower(hex(substr(digest, 1, 3)))), -- first six hex digits of sha256
    sha256       TEXT AS (lower(hex(digest))), -- of the source
    size         INTEGER NOT NULL,    -- of the source
    mtime_ns     INTEGER NOT NULL,    -- of the source, as its writer left it
    mode         INTEGER NOT NULL,    -- permission bits in the inbox
    uid          INTEGER NOT NULL,    -- owner in the inbox
    gid          INTEGER NOT NULL,
    captured_ms  INTEGER NOT NULL,    -- the server's clock at capture
    flat         BLOB NOT NULL,       -- flat_name where it is not name, '' else
    digest       BLOB NOT NULL,       -- sha256, 32 bytes
    reason       TEXT NOT NULL,       -- why it has its status where no attempt says so, '' if obvious
    xattrs       TEXT NOT NULL,       -- JSON object of user.* attributes, values in Base64
    superseded_by TEXT NOT NULL,      -- id of the later version, '' for none
    due_ms       INTEGER NOT NULL,    -- earliest time of the next conversion, 0: none by itself
    attempts     INTEGER NOT NULL,    -- how many began
    changed_seq  INTEGER NOT NULL,    -- journal line of the last change
    segment_id   INTEGER NOT NULL,    -- 0: purged, with the four that follow
    offset       INTEGER NOT NULL,    -- of the record in the segment
    header       INTEGER NOT NULL,    -- length of its header frame
    stored       INTEGER NOT NULL,    -- length of its content frames
    length       INTEGER NOT NULL,    -- length of the whole record
    confidence   REAL NOT NULL,       -- of the converter that it was given after its capture, from 0 to 1; -1: none was.
                                      --   The record of such a source may lie in a segment of `unrouted`
    members      INTEGER NOT NULL,    -- how many files and folders are in a source that is a folder; 0: it is a file
    reports      INTEGER NOT NULL     -- how many reports its attempts made, all together
) STRICT;

CREATE TABLE members (              -- what is in sources that are folders
    n        INTEGER NOT NULL REFERENCES entries,
    ordinal  INTEGER NOT NULL,      -- 1, 2, ... in the order of path
    path     BLOB NOT NULL,         -- relative to the folder, exact bytes
    mode     INTEGER NOT NULL,      -- permission bits and kind: a file or a folder
    size     INTEGER NOT NULL,      -- 0 for folders
    mtime_ns INTEGER NOT NULL,      -- as its writer left it
    offset   INTEGER NOT NULL,      -- where its bytes begin in the content, which is a tar
    PRIMARY KEY (n, ordinal)
) STRICT, WITHOUT ROWID;

-- one page of any directory of entries; and which of them have a report
CREATE INDEX entries_by_place ON entries (converter_id, day, status, n, reports);
-- an entry by its directory name, and by the beginning of its SHA-256
CREATE INDEX entries_by_hex ON entries (hex, captured_ms);
-- a source by its name in sources/
CREATE UNIQUE INDEX entries_by_flat_name ON entries (converter_id, day, flat_name);
-- the largest, and the empty ones
CREATE INDEX entries_by_size ON entries (size);
-- sources in the segments of another converter
CREATE INDEX entries_routed ON entries (segment_id) WHERE confidence >= 0;
-- what waits for conversion, by its converter
CREATE INDEX entries_by_due ON entries (converter_id, due_ms) WHERE due_ms > 0;

CREATE TABLE attempts (
    n           INTEGER NOT NULL REFERENCES entries,
    attempt     INTEGER NOT NULL,   -- 1, 2, ...
    cause       TEXT NOT NULL,      -- an states.Cause; unknown
    outcome     TEXT NOT NULL,      -- an states.Outcome, '' while it runs
    started_ms  INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    version     TEXT NOT NULL,      -- of the converter, as it says itself
    arguments   TEXT NOT NULL,      -- JSON object
    error       TEXT NOT NULL,      -- text of error.txt, '' for none
    warnings    TEXT NOT NULL,      -- JSON array of strings
    code        TEXT NOT NULL,      -- SHA-256 of the version of the converter's code that ran, '' where nobody knows
    job         INTEGER NOT NULL,   -- that made it, 0: none did
    promoted    INTEGER NOT NULL,   -- 1: it says what the entry is, unless a later one does; 0: it stands beside
    PRIMARY KEY (n, attempt)
) STRICT, WITHOUT ROWID;
-- what a version of a converter worked on
CREATE INDEX attempts_by_version ON attempts (version, n) WHERE version != '';

CREATE TABLE errors (               -- the attempts that have an error
    number  INTEGER PRIMARY KEY,    -- 1, 2, ... in the order of the journal
    n       INTEGER NOT NULL,       -- these two as in attempts
    attempt INTEGER NOT NULL
) STRICT;
CREATE INDEX errors_by_entry ON errors (n, attempt);

-- Full-text index: which names and errors hold three letters in a row. Neither the texts are in it nor positions;
-- letters are folded as Python's str.casefold does it, wrong UTF-8 and NUL are U+FFFD. Rows are added 256 at a time, so
-- the last up to 255 names and errors are not in it (catalog/trigrams.py).
CREATE VIRTUAL TABLE name_trigrams USING fts5 ( -- rowid: entries.n
    folded, -- the text
    content='', columnsize=0, detail=none, tokenize='trigram case_sensitive 1'
);
CREATE VIRTUAL TABLE error_trigrams USING fts5 ( -- rowid: errors.number
    folded, -- the text
    content='', columnsize=0, detail=none, tokenize='trigram case_sensitive 1'
);

-- what a job made
CREATE INDEX attempts_by_job ON attempts (job, n) WHERE job > 0;

CREATE TABLE contents (             -- what attempts stored
    n          INTEGER NOT NULL,
    attempt    INTEGER NOT NULL,
    ordinal    INTEGER NOT NULL,    -- 0: the log; 1, 2, ...: the reports
    name       TEXT NOT NULL,       -- as under attempts/N/
    size       INTEGER NOT NULL,
    sha256     TEXT AS (lower(hex(digest))),
    segment_id INTEGER NOT NULL,    -- 0: not kept, with the four that follow
    offset     INTEGER NOT NULL,
    header     INTEGER NOT NULL,
    stored     INTEGER NOT NULL,
    length     INTEGER NOT NULL,
    digest     BLOB NOT NULL,       -- sha256, 32 bytes
    PRIMARY KEY (n, attempt, ordinal)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (               -- reports that are to be delivered, and what became of them
    n            INTEGER NOT NULL REFERENCES entries,
    attempt      INTEGER NOT NULL,  -- these two as in contents
    ordinal      INTEGER NOT NULL,
    converter_id INTEGER NOT NULL REFERENCES converters,
    state        TEXT NOT NULL,     -- an states.Submission
    report_id    TEXT NOT NULL,     -- under which it is delivered
    queued_seq   INTEGER NOT NULL,  -- journal line that queued it; a converter's reports go out in this order
    queued_ms    INTEGER NOT NULL,
    due_ms       INTEGER NOT NULL,  -- earliest time of the next delivery, 0: at once, or none by itself
    failures     INTEGER NOT NULL,  -- deliveries that failed since it was queued or queued again
    PRIMARY KEY (n, attempt, ordinal)
) STRICT, WITHOUT ROWID;
-- the first of a converter's queue, and all that a person should look at
CREATE INDEX outbox_unsent ON outbox (converter_id, state, queued_seq, ordinal) WHERE state != 'sent';

CREATE TABLE deliveries (           -- each time that a report of the outbox was sent somewhere
    n           INTEGER NOT NULL,
    attempt     INTEGER NOT NULL,
    ordinal     INTEGER NOT NULL,
    number      INTEGER NOT NULL,   -- 1, 2, ...
    state       TEXT NOT NULL,      -- what the report became by it, an states.Submission
    started_ms  INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    http_status INTEGER NOT NULL,   -- of the answer, 0 for none
    answer_id   TEXT NOT NULL,      -- the id that the receiver gave the report, '' for none
    error       TEXT NOT NULL,      -- '' for none
    PRIMARY KEY (n, attempt, ordinal, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox_totals (        -- kept up to date by apply, so that nobody has to count
    converter_id INTEGER NOT NULL,
    state        TEXT NOT NULL,
    reports      INTEGER NOT NULL,
    PRIMARY KEY (converter_id, state)
) STRICT, WITHOUT ROWID;

CREATE TABLE totals (               -- kept up to date by apply, so that the top of the tree never scans entries
    converter_id INTEGER NOT NULL,
    day          INTEGER NOT NULL,
    status       INTEGER NOT NULL,
    entries      INTEGER NOT NULL,
    size         INTEGER NOT NULL,  -- of the sources
    length       INTEGER NOT NULL,  -- of their records on disk
    reported     INTEGER NOT NULL,  -- how many of them have a report
    PRIMARY KEY (converter_id, day, status)
) STRICT, WITHOUT ROWID;
CREATE INDEX totals_by_day ON totals (day, converter_id, status, entries);
CREATE INDEX totals_by_status ON totals (status, converter_id, day, entries);

CREATE TABLE plans (                -- purges that were thought of; those that were done are the purge history
    plan       INTEGER PRIMARY KEY, -- 1, 2, ...; plans/PLAN.jsonl lists the entries until the purge is done
    scope      TEXT NOT NULL,       -- the query or policy it was made for
    entries    INTEGER NOT NULL,    -- that it lists
    bytes      INTEGER NOT NULL,    -- that the disk would get back
    sha256     TEXT NOT NULL,       -- of that file
    erase      INTEGER NOT NULL,    -- 1: whatever retention promises
    made_ms    INTEGER NOT NULL,    -- when it was made
    uid        INTEGER NOT NULL,    -- who made it, -1: archivefs by itself
    program    TEXT NOT NULL,       -- of that user, '' where nobody knows
    begun_ms   INTEGER NOT NULL,    -- when the purge began, 0: it did not
    by_uid     INTEGER NOT NULL,    -- who began it, -1: archivefs by itself, or nobody
    ended_ms   INTEGER NOT NULL,    -- when all was done, 0: it is not
    purged     INTEGER NOT NULL,    -- entries, so far
    kept       INTEGER NOT NULL,    -- entries that something came to protect after the purge had begun
    freed      INTEGER NOT NULL     -- bytes that the disk got back, 0 before the end
) STRICT;

CREATE TABLE purged (               -- entries whose bytes are gone; their status is purged
    n         INTEGER PRIMARY KEY REFERENCES entries,
    plan      INTEGER NOT NULL REFERENCES plans, -- by which it went
    status    INTEGER NOT NULL,     -- before, position in states.STATUSES
    why       TEXT NOT NULL,        -- the rule
    purged_ms INTEGER NOT NULL      -- when
) STRICT;

CREATE TABLE holes (                -- stretches of segments that held what is purged; gone with their segment
    segment_id INTEGER NOT NULL,
    offset     INTEGER NOT NULL,
    length     INTEGER NOT NULL,
    plan       INTEGER NOT NULL,    -- of the purge that made it
    PRIMARY KEY (segment_id, offset)
) STRICT, WITHOUT ROWID;
CREATE INDEX holes_by_plan ON holes (plan, segment_id);

CREATE TABLE holds (                -- what must not be purged
    hold_id     INTEGER PRIMARY KEY,-- 1, 2, ...
    name        TEXT NOT NULL UNIQUE, -- as it was given
    query       TEXT NOT NULL,      -- as it was given
    reason      TEXT NOT NULL,      -- why
    future      INTEGER NOT NULL,   -- 1: covers later entries, too
    last_n      INTEGER NOT NULL,   -- the newest entry when it was added
    added_seq   INTEGER NOT NULL,   -- journal line that says so
    added_ms    INTEGER NOT NULL,   -- when
    uid         INTEGER NOT NULL,   -- who added it
    entries     INTEGER NOT NULL,   -- covered when it was added
    released_ms INTEGER NOT NULL,   -- 0: it holds
    released    TEXT NOT NULL,      -- why
    released_by INTEGER NOT NULL    -- uid, -1: nobody
) STRICT;

CREATE TABLE held (                 -- the entries that a hold covered when it was added
    n       INTEGER NOT NULL REFERENCES entries,
    hold_id INTEGER NOT NULL REFERENCES holds, -- that covers it
    PRIMARY KEY (n, hold_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE retained (             -- until when nothing of a converter is purged
    converter TEXT PRIMARY KEY,     -- its name
    until     TEXT NOT NULL         -- YYYY-MM-DD, that day included
) STRICT, WITHOUT ROWID;

CREATE TABLE jobs (                 -- long pieces of work
    job        INTEGER PRIMARY KEY, -- 1, 2, ...; jobs/JOB/ has its errors and result
    work       TEXT NOT NULL,       -- which kind
    request    TEXT NOT NULL,       -- JSON object: what was asked for
    state      TEXT NOT NULL,       -- an states.JobState
    uid        INTEGER NOT NULL,    -- who asked, -1: archivefs by itself
    program    TEXT NOT NULL,       -- of that user, '' where nobody knows
    created_ms INTEGER NOT NULL,    -- when it was asked for
    started_ms INTEGER NOT NULL,    -- for the first time, 0: not yet
    ended_ms   INTEGER NOT NULL,    -- 0: it is not at its end
    total      INTEGER NOT NULL,    -- things there are to do, as of its last change of state, with the next three
    done       INTEGER NOT NULL,    -- of these, without the failed and the skipped
    failed     INTEGER NOT NULL,    -- of these
    skipped    INTEGER NOT NULL,    -- of these: not tried
    error      TEXT NOT NULL        -- why it failed or was stopped, '' for none
) STRICT;
CREATE INDEX jobs_open ON jobs (state, job) WHERE ended_ms = 0;

CREATE TABLE activity (               -- how often something happened, kept up to date by apply; never counts down
    converter_id INTEGER NOT NULL REFERENCES converters,
    kind         TEXT NOT NULL,     -- captured, attempt, delivery
    result       TEXT NOT NULL,     -- '' of captures, an states.Outcome, an states.Submission
    times        INTEGER NOT NULL,  -- how often
    bytes        INTEGER NOT NULL,  -- of the sources that were captured
    duration_ms  INTEGER NOT NULL,  -- of attempts and deliveries together
    PRIMARY KEY (converter_id, kind, result)
) STRICT, WITHOUT ROWID;
