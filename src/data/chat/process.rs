//! Processes that render chat templates.
//!
//! A template is code from a checkpoint: it may run forever, fill the memory or overflow the stack. It then ends a
//! process that does nothing else.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::renderer::{Rendered, Renderer, Request};
use crate::{Error, Result};

/// Time for one conversation; long ones take milliseconds.
const DEADLINE: Duration = Duration::from_secs(8);
/// Maximum bytes of one answer.
const MAX_ANSWER: u64 = 1 << 29;
/// Maximum number of processes, each of which holds some 25 MB.
const MAX_WORKERS: usize = 4;

/// Renders in a few processes of one command, started when threads need them. Each reads requests from its standard input and writes one answer per conversation to its standard output, as lines
/// of JSON.
#[derive(Debug)]
pub struct RendererProcess {
    command: Vec<String>,
    environment: Vec<(String, String)>,
    deadline: Duration,
    pool: Mutex<Pool>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct Pool {
    idle: Vec<Worker>,
    busy: usize,
}

impl RendererProcess {
    /// Renders with `command`, a program and its arguments, in this environment with the variables `environment`.
    #[must_use]
    pub const fn new(command: Vec<String>, environment: Vec<(String, String)>) -> Self {
        let pool = Mutex::new(Pool { idle: Vec::new(), busy: 0 });
        Self { command, environment, deadline: DEADLINE, pool, returned: Condvar::new() }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a worker out of the pool, starts one or waits for one.
    fn take(&self) -> Result<Worker> {
        let is_full = |pool: &mut Pool| pool.idle.is_empty() && pool.busy >= MAX_WORKERS;
        let waited = self.returned.wait_while(self.pool(), is_full);
        let mut pool = waited.unwrap_or_else(PoisonError::into_inner);
        pool.busy += 1;
        let idle = pool.idle.pop();
        drop(pool);
        idle.map_or_else(|| Worker::start(&self.command, &self.environment), Ok)
    }

    /// Puts a worker back; one that failed is `None`.
    fn put_back(&self, worker: Option<Worker>) {
        let mut pool = self.pool();
        pool.busy -= 1;
        pool.idle.extend(worker);
        drop(pool);
        self.returned.notify_one();
    }
}

fn ask(
    worker: &mut Worker,
    request: &Request<'_>,
    deadline: Duration,
) -> Result<Vec<Vec<Rendered>>, (usize, Error)> {
    worker.send(request).map_err(|error| (0, error))?;
    let answer = |index| worker.receive(deadline).map_err(|error| (index, error));
    (0..request.conversations.len()).map(answer).collect()
}

impl Renderer for RendererProcess {
    fn render(&self, request: &Request<'_>) -> Result<Vec<Vec<Rendered>>, (usize, Error)> {
        let (worker, answers) = match self.take() {
            Err(error) => (None, Err((0, error))),
            Ok(mut worker) => {
                let answers = ask(&mut worker, request, self.deadline);
                (answers.is_ok().then_some(worker), answers)
            }
        };
        self.put_back(worker);
        answers
    }
}

#[derive(Debug)]
struct Worker {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<std::io::Result<Vec<u8>>>,
}

impl Worker {
    fn start(command: &[String], environment: &[(String, String)]) -> Result<Self> {
        let (program, arguments) =
            command.split_first().map_or(("", command), |(p, rest)| (p.as_str(), rest));
        let unavailable = |reason: &dyn std::fmt::Display| {
            Error::Dependency(format!(
                "chat templates are rendered by {program:?}, which cannot be started: {reason}"
            ))
        };
        let mut child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| unavailable(&error))?;
        let (Some(requests), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(unavailable(&"it has no standard streams"));
        };
        let (sender, answers) = channel();
        // Reads ahead, so that neither side waits for the other to read. Ends with the child.
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            loop {
                let mut line = Vec::new();
                let read = (&mut output).take(MAX_ANSWER).read_until(b'\n', &mut line);
                let is_last = !matches!(read, Ok(1..));
                if sender.send(read.map(|_| line)).is_err() || is_last {
                    return;
                }
            }
        });
        Ok(Self { child, requests, answers })
    }

    fn send(&mut self, request: &Request<'_>) -> Result<()> {
        let written = serde_json::to_vec(request).map_err(std::io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            self.requests.write_all(&line)?;
            self.requests.flush()
        });
        written.map_err(|_| self.death())
    }

    fn receive(&mut self, deadline: Duration) -> Result<Vec<Rendered>> {
        let Ok(line) = self.answers.recv_timeout(deadline) else {
            return Err(Error::Dataset(format!(
                "the chat template did not finish within {} s",
                deadline.as_secs()
            )));
        };
        let answer: Option<Vec<Rendered>> = line.ok().and_then(|line| serde_json::from_slice(&line).ok());
        let is_valid = |rendered: &Rendered| !matches!(rendered, Rendered::Text(text) if !text.is_valid());
        answer.filter(|renderings| renderings.iter().all(is_valid)).ok_or_else(|| self.death())
    }

    /// Why the process gave no valid answer.
    fn death(&mut self) -> Error {
        // Ends the streams that are read next.
        let _ = self.child.kill();
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let mut log = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = stderr.take(1 << 16).read_to_end(&mut log);
        }
        let log = String::from_utf8_lossy(&log);
        let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        Error::Dataset(
            format!("the chat template ended the process that renders it ({status}) {last}")
                .trim_end()
                .to_owned(),
        )
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Map, json};

    use super::*;
    use crate::data::chat::renderer::{Conversation, Rendering};

    fn shell(script: &str) -> RendererProcess {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        RendererProcess { deadline: Duration::from_millis(500), ..RendererProcess::new(command, Vec::new()) }
    }

    fn render(
        renderer: &RendererProcess,
        conversations: usize,
    ) -> Result<Vec<Vec<Rendered>>, (usize, String)> {
        let (templates, variables, messages) = (BTreeMap::new(), Map::new(), [json!({"role": "user"})]);
        let conversation = || Conversation {
            messages: &messages,
            tools: None,
            variables: &variables,
            renderings: vec![(1, false)],
        };
        let conversations = (0..conversations).map(|_| conversation()).collect();
        let request = Request { templates: &templates, variables: &variables, conversations };
        renderer.render(&request).map_err(|(index, error)| (index, error.to_string()))
    }

    const ANSWER: &str = r#"printf '[{"text":"hé","messages":[[0,0,3]],"generated":null}]\n'"#;

    #[test]
    fn a_process_answers_several_requests() {
        let renderer = shell(&format!("while read line; do {ANSWER}; {ANSWER}; done"));
        let rendering = Rendering { text: "hé".to_owned(), messages: vec![(0, 0, 3)], generated: None };
        for _ in 0..2 {
            assert_eq!(render(&renderer, 2).unwrap(), vec![vec![Rendered::Text(rendering.clone())]; 2]);
        }
        assert_eq!(renderer.pool().idle.len(), 1);
    }

    #[test]
    fn a_process_that_does_not_answer_is_replaced() {
        let renderer = shell(&format!("read line; {ANSWER}; sleep 60"));
        for _ in 0..2 {
            let (index, reason) = render(&renderer, 2).unwrap_err();
            assert_eq!((index, reason.as_str()), (1, "the chat template did not finish within 0 s"));
            assert!(renderer.pool().idle.is_empty());
        }
    }

    #[test]
    fn threads_share_a_few_processes() {
        let renderer = shell(&format!("while read line; do sleep 0.02; {ANSWER}; done"));
        std::thread::scope(|scope| {
            let threads = [(); 12].map(|()| scope.spawn(|| render(&renderer, 1).unwrap()));
            assert!(threads.into_iter().all(|thread| thread.join().unwrap().len() == 1));
        });
        let pool = renderer.pool();
        assert!((1..=MAX_WORKERS).contains(&pool.idle.len()) && pool.busy == 0);
    }

    #[test]
    fn a_process_that_ends_says_why() {
        let (index, reason) =
            render(&shell(&format!("read line; {ANSWER}; echo why >&2; exit 3")), 2).unwrap_err();
        assert_eq!(index, 1);
        assert_eq!(reason, "the chat template ended the process that renders it (exit status: 3) why");
        let (_, reason) =
            render(&RendererProcess::new(vec!["/nowhere/python".to_owned()], Vec::new()), 1).unwrap_err();
        assert!(reason.contains("\"/nowhere/python\", which cannot be started"), "{reason}");
    }

    #[test]
    fn answers_are_not_trusted() {
        for answer in [
            "[1]",
            "{",
            r#"[{"text":"é","messages":[[0,0,1]],"generated":null}]"#,
            r#"[{"text":"a","messages":[],"generated":[[0,9]]}]"#,
        ] {
            let (_, reason) = render(&shell(&format!("read line; printf '%s\n' '{answer}'")), 1).unwrap_err();
            assert!(reason.starts_with("the chat template ended the process"), "{reason}");
        }
    }
}
