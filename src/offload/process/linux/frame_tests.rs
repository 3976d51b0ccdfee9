//! Property tests of the messages of workers.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::frame::{REPLY_HEADER, RemoteEvent, RemotePanic, ReplyKind, RequestHeader, reply_header};
use super::reply_buffer::{Arrived, CHUNK, ReplyBuffer, SMALL};
use crate::offload::process::attachment::{Attachment, MIN_BESIDE};
use crate::offload::process::codec::{self, Message};

const MAX_BODY: usize = 3 * CHUNK;

/// Sends bytes in pieces until the first reply is complete or bad. Returns what is known of it.
fn send(buffer: &mut ReplyBuffer, bytes: &[u8], piece: usize) -> Arrived {
    let (mut worker, server) = UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    for piece in bytes.chunks(piece) {
        worker.write_all(piece).unwrap();
        while buffer.first(MAX_BODY) == Arrived::Part && buffer.receive(&server).is_ok() {}
    }
    buffer.first(MAX_BODY)
}

fn reply(kind: ReplyKind, body: &[u8]) -> Vec<u8> {
    [&reply_header(kind, body.len())[..], body].concat()
}

proptest! {
    #[test]
    fn garbage_neither_panics_nor_takes_memory(
        mut bytes in vec(any::<u8>(), 0..64),
        kind in 0_u8..9,
        piece in 1_usize..64,
    ) {
        bytes.first_mut().into_iter().for_each(|first| *first = kind);
        let mut buffer = ReplyBuffer::default();
        send(&mut buffer, &bytes, piece);
        prop_assert!(buffer.capacity() <= bytes.len() + 2 * CHUNK);
    }

    #[test]
    fn reply_arrives_in_any_pieces_after_its_attachments(
        attachments in vec(vec(any::<u8>(), MIN_BESIDE..MIN_BESIDE + 9_000), 0..3),
        body in vec(any::<u8>(), 0..10_000),
        piece in 1_usize..12_000,
    ) {
        let mut bytes: Vec<u8> =
            attachments.iter().flat_map(|attachment| reply(ReplyKind::Attachment, attachment)).collect();
        bytes.extend(reply(ReplyKind::Done, &body));
        let mut buffer = ReplyBuffer::default();
        for piece in bytes.chunks(piece) {
            prop_assert_eq!(buffer.first(MAX_BODY), Arrived::Part);
            send(&mut buffer, piece, piece.len());
        }
        prop_assert_eq!(buffer.first(MAX_BODY), Arrived::All(ReplyKind::Done, body.len()));
        prop_assert_eq!(buffer.body(body.len()), &body[..]);
        prop_assert_eq!(buffer.take_attachments(), attachments);
        buffer.remove(body.len());
        prop_assert!(!buffer.has_rest());
    }

    #[test]
    fn request_header_survives_the_way(
        function in any::<[u8; 16]>(),
        budget in proptest::option::of(0..u64::MAX),
        level in any::<u8>(),
        lengths in any::<[u64; 2]>(),
        attachments in any::<u32>(),
    ) {
        let budget = budget.map(Duration::from_nanos);
        let [meta_length, arguments_length] = lengths;
        let header = RequestHeader { function, budget, level, meta_length, arguments_length, attachments };
        prop_assert_eq!(RequestHeader::from_bytes(&header.to_bytes()), header);
    }
}

/// Changes some bytes of a valid reply, or cuts it off.
fn mutate(bytes: &mut Vec<u8>, random: &mut impl FnMut(usize) -> usize) {
    for _ in 0..random(4) {
        let index = random(bytes.len());
        bytes[index] = [0, 1, 0x7f, 0x80, 0xff, random(256) as u8][random(6)];
    }
    if random(3) == 0 {
        bytes.truncate(random(bytes.len()));
    }
}

/// `ONELANE_FUZZ_CASES=10000000` runs as many cases.
#[test]
fn mutated_replies_neither_panic_nor_take_memory() {
    type Value = (String, Vec<u64>, Option<Attachment>);
    let cases = std::env::var("ONELANE_FUZZ_CASES").map_or(20_000, |cases| cases.parse().unwrap());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    let encoded = |encode: &dyn Fn(&mut Vec<u8>) -> postcard::Result<()>| {
        let mut body = Vec::new();
        encode(&mut body).unwrap();
        body
    };
    let value: Value = ("name".to_owned(), vec![1, 1 << 40], Some(vec![7; 20_000].into()));
    let mut message = Message::default();
    codec::encode_message(&value, &mut message).unwrap();
    let panic = RemotePanic { message: "no".to_owned(), location: Some("x.rs:1".to_owned()) };
    let event = RemoteEvent { level: 3, target: "t".to_owned(), message: "m".to_owned(), fields: "a=1".to_owned() };
    let replies = [
        [reply(ReplyKind::Attachment, &message.attachments[0]), reply(ReplyKind::Done, &message.body)].concat(),
        reply(ReplyKind::Panicked, &encoded(&|body| codec::encode(&panic, body))),
        [reply(ReplyKind::Event, &encoded(&|body| codec::encode(&event, body))), reply(ReplyKind::Done, &[])].concat(),
    ];
    let (mut worker, server) = UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    let mut outcomes = [0_u64; 3];
    for _ in 0..cases {
        let mut bytes = replies[random(replies.len())].clone();
        mutate(&mut bytes, &mut random);
        worker.write_all(&bytes).unwrap();
        let mut buffer = ReplyBuffer::default();
        loop {
            match buffer.first(MAX_BODY) {
                Arrived::Part if buffer.receive(&server).is_err() => break outcomes[0] += 1,
                Arrived::Part => {}
                Arrived::Bad(_) => break outcomes[1] += 1,
                Arrived::All(_, length) => {
                    let body = buffer.body(length).to_vec();
                    let _ = codec::decode::<RemotePanic>(&body);
                    let _ = codec::decode::<RemoteEvent>(&body);
                    let _ = codec::decode_message::<Value>(&body, buffer.take_attachments());
                    buffer.remove(length);
                    outcomes[2] += 1;
                }
            }
        }
        assert!(buffer.capacity() <= bytes.len() + 2 * CHUNK, "{}", buffer.capacity());
        // What the buffer has not read belongs to no other case.
        while rustix::io::read(&server, &mut [0; 4_096]).is_ok() {}
    }
    assert!(outcomes.iter().all(|outcome| *outcome > cases / 50), "{outcomes:?}");
}

#[test]
fn reply_above_the_limit_is_bad_before_it_takes_memory() {
    for kind in [ReplyKind::Done, ReplyKind::Attachment] {
        for length in [MAX_BODY + 1, usize::MAX - REPLY_HEADER, usize::MAX] {
            let mut buffer = ReplyBuffer::default();
            let arrived = send(&mut buffer, &reply_header(kind, length), 64);
            assert_eq!(arrived, Arrived::Bad("it is longer than max_reply allows"));
            assert!(buffer.capacity() <= 2 * SMALL, "{}", buffer.capacity());
        }
    }
    let mut buffer = ReplyBuffer::default();
    let bytes =
        [reply(ReplyKind::Attachment, &[1; MIN_BESIDE]), reply_header(ReplyKind::Done, MAX_BODY - 8).into()].concat();
    assert!(matches!(send(&mut buffer, &bytes, 100), Arrived::Bad(_)), "the attachment counts too");
}

#[test]
fn flood_of_short_attachments_is_bad() {
    let mut buffer = ReplyBuffer::default();
    let bytes = reply(ReplyKind::Attachment, &[]).repeat(10_000);
    assert_eq!(send(&mut buffer, &bytes, 9_000), Arrived::Bad("an attachment is too short"));
    assert!(buffer.capacity() < 4 * SMALL, "{}", buffer.capacity());
}

#[test]
fn replies_that_arrive_together_are_read_one_by_one() {
    let mut buffer = ReplyBuffer::default();
    let done = |body: &[u8]| reply(ReplyKind::Done, body);
    let bytes = [done(&[1; 5_000]), done(&[]), done(&[2; 3])].concat();
    let (mut worker, server) = UnixStream::pair().unwrap();
    worker.write_all(&bytes).unwrap();
    assert_eq!(buffer.receive(&server), Ok(4_096));
    assert_eq!(buffer.first(MAX_BODY), Arrived::Part);
    assert_eq!(buffer.receive(&server), Ok(bytes.len() - 4_096));
    assert_eq!(buffer.first(MAX_BODY), Arrived::All(ReplyKind::Done, 5_000));
    buffer.remove(5_000);
    assert_eq!(buffer.first(MAX_BODY), Arrived::All(ReplyKind::Done, 0));
    buffer.remove(0);
    assert_eq!(buffer.first(MAX_BODY), Arrived::All(ReplyKind::Done, 3));
    assert_eq!(buffer.body(3), [2; 3]);
    assert!(buffer.has_rest());
    buffer.remove(3);
    assert!(!buffer.has_rest());
}
