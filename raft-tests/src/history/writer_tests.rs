use std::fs;
use std::io::BufReader;

use ringraft::types::Revision;
use tempfile::TempDir;

use super::*;
use crate::history::{Event, Expect, Outcome, read};

fn put(value: &str) -> Call {
    Call::new("k", Request::Put { value: value.to_string(), expect: None })
}

/// What another process sees in the file, now.
fn events(path: &Path) -> Vec<Event> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn an_invocation_is_in_the_file_before_the_request_leaves() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("history.jsonl");
    let recorder = Recorder::create(&path).unwrap();
    let mut session = recorder.session();
    let running = session.invoke(put("a")).unwrap();
    // Here the request would leave.
    let seen = events(&path);
    assert!(matches!(&seen[..], [Event::Invoke(invoke)] if invoke.value.as_deref() == Some("a")), "{seen:?}");
    running.ok(Answer::Written { ver: Revision(5) }, About::default()).unwrap();
    assert!(matches!(&events(&path)[1..], [Event::Ok(_)]));
    assert!(Recorder::create(&path).is_err(), "a history is never written over");
}

#[test]
fn what_is_recorded_can_be_read_and_says_the_same() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("history.jsonl");
    let recorder = Recorder::create(&path).unwrap();
    let mut session = recorder.session();
    let answers = [
        (Request::Get { mode: Mode::Lease }, Answer::Found { ver: Revision(3), value: Some("x".into()) }),
        (Request::Get { mode: Mode::Linearizable }, Answer::Found { ver: Revision(3), value: None }),
        (Request::Get { mode: Mode::Stale }, Answer::Absent),
        (Request::Put { value: "y".into(), expect: None }, Answer::Written { ver: Revision(4) }),
        (
            Request::Put { value: "z".into(), expect: Some(Expect::Absent) },
            Answer::Refused { current: Some(Revision(4)) },
        ),
        (Request::Delete { expect: Some(Expect::Exists) }, Answer::Refused { current: None }),
        (Request::Delete { expect: None }, Answer::Deleted { ver: None }),
        (Request::Delete { expect: Some(Expect::Revision(Revision(9))) }, Answer::Deleted { ver: Some(Revision(10)) }),
    ];
    for (request, answer) in &answers {
        let call =
            Call { idempotency: Some("once".into()), node: Some("n1".into()), ..Call::new("k", request.clone()) };
        session.invoke(call).unwrap().ok(answer.clone(), About { status: Some(200), ..About::default() }).unwrap();
    }
    recorder.nemesis("kill", Phase::Begin, &["n1".to_string()], true).unwrap();
    session.invoke(put("f")).unwrap().fail(About { why: Some("503".into()), ..About::default() }).unwrap();
    let history = read(BufReader::new(fs::File::open(&path).unwrap())).unwrap();
    for (operation, (request, answer)) in history.operations.iter().zip(&answers) {
        assert_eq!((&operation.request, &operation.outcome), (request, &Outcome::Ok(answer.clone())));
        assert_eq!((operation.idempotency.as_deref(), operation.node.as_deref()), (Some("once"), Some("n1")));
    }
    assert_eq!(history.operations[8].outcome, Outcome::Fail);
    assert_eq!(history.nemeses.len(), 1);
}

#[test]
fn an_operation_that_is_given_up_is_unknown_and_retires_its_process() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("history.jsonl");
    let recorder = Recorder::create(&path).unwrap();
    let mut session = recorder.session();
    let mut other = recorder.session();
    let processes = [session.process(), other.process()];
    drop(session.invoke(put("a")).unwrap());
    assert!(!processes.contains(&session.process()));
    other.invoke(put("b")).unwrap().info(About::default()).unwrap();
    assert!(!processes.contains(&other.process()) && other.process() != session.process());
    drop((session.invoke(put("c")).unwrap(), other.invoke(put("d")).unwrap()));
    let history = read(BufReader::new(fs::File::open(&path).unwrap())).unwrap();
    assert_eq!(history.operations.len(), 4);
    assert!(history.operations.iter().all(|one| one.outcome == Outcome::Info && one.ended.is_some()));
}

#[test]
fn many_tasks_write_whole_lines_in_the_order_of_their_times() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("history.jsonl");
    let recorder = Recorder::create(&path).unwrap();
    let mut sessions: Vec<Session> = (0..20).map(|_| recorder.session()).collect();
    for round in 0..5 {
        let running: Vec<Running<'_>> =
            sessions.iter_mut().map(|session| session.invoke(put(&round.to_string())).unwrap()).collect();
        for (place, running) in running.into_iter().enumerate().rev() {
            let ver = Revision(1 + round * 100 + place as u64);
            running.ok(Answer::Written { ver }, About::default()).unwrap();
        }
    }
    // The reader holds it to one open operation for each process and to times that do not go back.
    let history = read(BufReader::new(fs::File::open(&path).unwrap())).unwrap();
    assert_eq!((history.operations.len(), history.events), (100, 200));
}

struct FullDisk {
    lines_left: usize,
}

impl Write for FullDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(left) = self.lines_left.checked_sub(1) else { return Err(io::Error::other("no space left")) };
        self.lines_left = left;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn after_a_line_that_could_not_be_written_nothing_is_recorded() {
    let recorder = Recorder::new(FullDisk { lines_left: 1 });
    let mut session = recorder.session();
    let running = session.invoke(put("a")).unwrap();
    assert!(running.ok(Answer::Written { ver: Revision(1) }, About::default()).is_err());
    let error = session.invoke(put("b")).err().expect("the request must not leave");
    assert!(error.to_string().contains("history is broken"), "{error}");
}
