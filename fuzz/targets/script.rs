//! Whatever a script is: it ends in time, within its memory, and the next one finds nothing of it.

#![no_main]

use std::time::Duration;

use coffre::protocol::reply::{Protocol, Replies};
use coffre::protocol::request::QueuedRequest;
use coffre::script::{Calls, End, Input, Sandbox, Script};
use libfuzzer_sys::fuzz_target;

/// Answers each command with its last word, and ends a script by `END`.
struct Echo;

impl Calls for Echo {
    fn call(
        &mut self,
        request: &QueuedRequest,
        protocol: Protocol,
        replies: &mut Replies,
    ) -> Result<(), End> {
        let request = request.request();
        replies.speak(protocol);
        match &request[0] {
            b"END" => return Err(End::Refused),
            b"MAP" => replies.map(0),
            b"ERROR" => replies.error("ERR asked for"),
            _ => replies.bulk(&request[request.len() - 1]),
        }
        Ok(())
    }
}

fn run(sandbox: &mut Sandbox, text: &[u8], time: Duration) -> Option<Result<Replies, End>> {
    let script = Script::new(text).ok()?;
    let (keys, arguments) = ([&b"key"[..]], [&b"argument"[..]]);
    let input = Input { keys: &keys, arguments: &arguments, time };
    let mut replies = Replies::default();
    let outcome = sandbox.run(&script, &input, &mut Echo, &mut replies);
    Some(outcome.map(|error| {
        if let Some(error) = error {
            replies.error(&error);
        }
        replies
    }))
}

fuzz_target!(|text: &[u8]| {
    const MEMORY_BYTES: usize = 4 << 20;
    const PROBE: &[u8] = b"local n = 0 for _ in pairs(_G) do n = n + 1 end
        return {n, ('a'):rep(2), #string.format('%d', 7), redis.call('GET', 'x'), type(KEYS), select('#', ('a'):find('a'))}";
    const PROBED: &[u8] = b"*6\r\n:0\r\n$2\r\naa\r\n:1\r\n$1\r\nx\r\n$5\r\ntable\r\n:2\r\n";
    let mut sandbox = Sandbox::new(MEMORY_BYTES).unwrap();
    let Some(outcome) = run(&mut sandbox, text, Duration::from_millis(20)) else { return };
    if let Ok(replies) = outcome {
        // One reply, and a whole one.
        assert!(replies.is_lost() || replies.bytes().is_some_and(|bytes| bytes.ends_with(b"\r\n")));
    }
    let probed = run(&mut sandbox, PROBE, Duration::from_secs(20)).unwrap().unwrap();
    assert_eq!(probed.bytes().map(String::from_utf8_lossy), Some(String::from_utf8_lossy(PROBED)));
});
