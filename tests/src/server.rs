//! The model server and its protocol: on the host behind a pseudo-terminal, and in QEMU, where
//! 10,000 frames of a hostile mix meet it.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use firmware_example::protocol::{
    Answer, Ask, DATA_BYTES, FRAME_BYTES, Identity, Info, Receiver, Reply, Request, UNCOUNTED,
    VERSION, decode, encode,
};
use firmware_example::server::{self, Device as ServerDevice};
use kan_core::ModelBytes;
use kan_train_host::device::{Cost, Device, DeviceError, Link, Unit};
use kan_train_host::evaluator::Evaluator;
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64;
use serialport::{SerialPort as _, TTYPort};

use crate::device::{Blob, Numbers, firmware};

/// RAM for models on the board that the host plays.
const RAM: usize = 4096;

const IDENTITY: Identity<'static> = Identity {
    protocol: VERSION,
    board: "desk",
    fault: None,
    ticks_per_second: 1_000_000,
    ticks_of_nothing: 3,
    ticks_of_thousand_turns: [23, 2023],
};

/// A board that is this computer: bytes come and go by closures, its counter always reads 45.
struct Desk<R, W>(R, W);

impl<R: FnMut() -> Option<u8>, W: FnMut(&[u8])> ServerDevice for Desk<R, W> {
    fn receive(&mut self) -> Option<u8> {
        self.0()
    }
    fn send(&mut self, bytes: &[u8]) {
        self.1(bytes);
    }
    fn start_counter(&mut self) {}
    fn ticks(&mut self) -> u32 {
        45
    }
    fn stack_bytes(&mut self, work: &mut dyn FnMut()) -> u32 {
        work();
        100
    }
}

/// Bytes that the server sends in answer to `bytes`, with `flash` as its flash.
fn served(flash: &[u8], bytes: &[u8]) -> Vec<u8> {
    let (mut bytes, mut sent) = (bytes.iter().copied(), Vec::new());
    let mut desk = Desk(|| bytes.next(), |said: &[u8]| sent.extend_from_slice(said));
    server::serve(&mut desk, IDENTITY, flash, &mut ModelBytes([0; RAM]));
    sent
}

fn frame(message: &impl serde::Serialize) -> Vec<u8> {
    let mut buffer = [0; FRAME_BYTES + 2];
    encode(message, &mut buffer)
        .expect("it fits a frame")
        .to_vec()
}

fn request(number: u32, ask: Ask<'_>) -> Vec<u8> {
    frame(&Request { number, ask })
}

/// The frames in a stream of bytes, without their zeros.
fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut receiver = Receiver::new();
    let cut = bytes
        .iter()
        .filter_map(|&byte| receiver.push(byte).map(|frame| frame.to_vec()));
    cut.collect()
}

/// The only answer to one request.
fn answer_to(flash: &[u8], requests: &[u8], check: impl FnOnce(Answer<'_>)) {
    let sent = served(flash, requests);
    let mut frames = frames(&sent);
    assert_eq!(frames.len(), 1);
    let reply: Reply<'_> = decode(&mut frames[0]).expect("the server's frames are whole");
    assert_eq!(reply.number, 7);
    check(reply.answer);
}

/// Rows as bytes.
fn data(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// What [`Answer::Rows`] holds for rows of a model, if every inference takes `ticks`.
fn rows(evaluator: &Evaluator, inputs: &[f32], ticks: u32) -> Vec<u8> {
    let x: Vec<f64> = inputs.iter().map(|&x| x.into()).collect();
    let outputs = evaluator.model().outputs();
    let values = evaluator.eval(&x);
    let rows = values.chunks_exact(outputs);
    rows.flat_map(|row| [data(row), ticks.to_le_bytes().to_vec()].concat())
        .collect()
}

#[test]
fn the_server_answers_what_it_is_asked() {
    let blob = Blob::random(3, false, &[2, 5, 3], false);
    let evaluator = Evaluator::load(blob.bytes()).expect("the blob is good");
    let region = [blob.bytes(), &[0xFF; 100]].concat();
    let flash = Flash::of(&region);
    let flash = flash.bytes();

    answer_to(flash, &request(7, Ask::Info), |answer| match answer {
        Answer::Info(Info {
            device,
            answered: 0,
            ram_bytes,
            model: Ok(shape),
        }) => {
            assert_eq!((device, ram_bytes as usize), (IDENTITY, RAM));
            assert_eq!(
                (shape.inputs, shape.outputs, shape.width, shape.layers),
                (2, 3, 5, 2)
            );
            assert_eq!(
                (shape.edges, shape.blob_len as usize),
                (25, blob.bytes().len())
            );
            assert_eq!((shape.crc, shape.in_ram), (evaluator.model().crc(), false));
            assert_eq!(shape.stack_bytes, 100);
        }
        other => panic!("{other:?}"),
    });

    let quiet = f32::from_bits(0x7FC1_2345);
    let inputs = [0.5, -0.25, quiet, f32::INFINITY, -0.0, 1e-45];
    let predict = request(
        7,
        Ask::Predict {
            rows: &data(&inputs),
        },
    );
    answer_to(flash, &predict, |answer| {
        assert_eq!(answer, Answer::Rows(&rows(&evaluator, &inputs, 45)));
    });
    // No row is no fault.
    answer_to(flash, &request(7, Ask::Predict { rows: &[] }), |answer| {
        assert_eq!(answer, Answer::Rows(&[]));
    });
    for bytes in [1, 4, 7, 12, 1020] {
        let predict = request(
            7,
            Ask::Predict {
                rows: &vec![0; bytes],
            },
        );
        answer_to(flash, &predict, |answer| {
            assert_eq!(
                answer,
                Answer::Refused("the rows are not whole"),
                "{bytes} bytes"
            );
        });
    }
    // 64 rows of three outputs and a count fill the frame.
    for (count, fits) in [(64, true), (65, false)] {
        let predict = request(
            7,
            Ask::Predict {
                rows: &vec![0; 8 * count],
            },
        );
        answer_to(flash, &predict, |answer| match answer {
            Answer::Rows(data) => assert!(fits && data.len() == DATA_BYTES),
            Answer::Refused(reason) => {
                assert!(!fits && reason.contains("do not fit a frame"), "{reason}");
            }
            other => panic!("{other:?}"),
        });
    }
    for (flash, reason) in [
        (&[0xFF; 64][..], "not a KAN model"),
        (&[], "the blob is cut short"),
        (&blob.bytes()[..64], "the blob is cut short"),
    ] {
        let flash = Flash::of(flash);
        let flash = flash.bytes();
        for ask in [
            Ask::Info,
            Ask::Load,
            Ask::Predict {
                rows: &data(&[0.0; 2]),
            },
        ] {
            answer_to(flash, &request(7, ask), |answer| match answer {
                Answer::Info(Info {
                    model: Err(said), ..
                })
                | Answer::Refused(said) => {
                    assert_eq!(said, reason);
                }
                other => panic!("{other:?}"),
            });
        }
    }
}

/// Bytes as a region of flash begins: at a multiple of four.
struct Flash(Vec<u32>, usize);

impl Flash {
    fn of(bytes: &[u8]) -> Self {
        let mut words = vec![0; bytes.len().div_ceil(4)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self(words, bytes.len())
    }

    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.0)[..self.1]
    }
}

/// The requests that send a blob into RAM.
fn pieces(blob: &[u8], size: usize) -> Vec<Vec<u8>> {
    let piece = |(k, bytes): (usize, _)| {
        let ask = Ask::Piece {
            blob_len: blob.len() as u32,
            at: (k * size) as u32,
            bytes,
        };
        request(7, ask)
    };
    blob.chunks(size).enumerate().map(piece).collect()
}

#[test]
fn a_model_can_be_sent_into_ram_and_the_one_in_flash_comes_back() {
    let blob = Blob::random(1, false, &[2, 3], false);
    let other = Blob::random(3, false, &[1, 8, 4], false);
    let flash = Flash::of(other.bytes());
    let ram = Evaluator::load(blob.bytes()).expect("the blob is good");
    let inputs = [0.25, 0.75];
    let predict = request(
        8,
        Ask::Predict {
            rows: &data(&inputs),
        },
    );

    for size in [blob.bytes().len(), 100, 1] {
        let mut sent = pieces(blob.bytes(), size);
        let count = sent.len();
        // Sent twice, as if an answer had been lost; pieces may come in any order but for the last.
        sent.insert(1, sent[0].clone());
        sent.push(predict.clone());
        sent.push(request(9, Ask::Load));
        sent.push(request(9, Ask::Info));
        let mut answers = frames(&served(flash.bytes(), &sent.concat()));
        assert_eq!(answers.len(), count + 4);
        for (k, frame) in answers.iter_mut().enumerate() {
            let reply: Reply<'_> = decode(frame).expect("whole");
            match reply.answer {
                // A blob in one piece: with the second sending nothing changes.
                Answer::Done => assert!(k < count && count > 1, "{k}"),
                Answer::Info(info) => {
                    let shape = info.model.expect("there is a model");
                    assert_eq!(shape.in_ram, reply.number == 7);
                    let expected = if shape.in_ram {
                        blob.bytes()
                    } else {
                        other.bytes()
                    };
                    assert_eq!(shape.blob_len as usize, expected.len());
                    assert_eq!(info.answered as usize, k);
                    assert!(k == count || k > count + 1 || count == 1, "{k} of {count}");
                }
                Answer::Rows(said) => {
                    assert_eq!((reply.number, k), (8, count + 1));
                    assert_eq!(said, rows(&ram, &inputs, 45));
                }
                Answer::Refused(reason) => panic!("{reason}"),
            }
        }
    }

    // Half a blob is no model, and neither is what ends well but began badly.
    let half = &pieces(blob.bytes(), 100)[..1];
    let sent = [half.concat(), request(7, Ask::Info)].concat();
    let mut answers = frames(&served(flash.bytes(), &sent));
    match decode::<Reply<'_>>(&mut answers[1]).map(|reply| reply.answer) {
        Some(Answer::Info(info)) => assert_eq!(info.model, Err("the blob is cut short")),
        other => panic!("{other:?}"),
    }
    let end = pieces(blob.bytes(), 100).pop().expect("there is one");
    answer_to(flash.bytes(), &end, |answer| match answer {
        Answer::Info(info) => assert_eq!(info.model, Err("not a KAN model")),
        other => panic!("{other:?}"),
    });

    let bytes = &[0; 8];
    let far = u32::MAX - 4;
    for (blob_len, at) in [
        (RAM as u32 + 1, 0),
        (RAM as u32, RAM as u32 - 7),
        (4, 0),
        (u32::MAX, far),
        (8, far),
    ] {
        let piece = Ask::Piece {
            blob_len,
            at,
            bytes,
        };
        answer_to(flash.bytes(), &request(7, piece), |answer| {
            assert_eq!(
                answer,
                Answer::Refused("the blob does not fit the RAM set apart")
            );
        });
    }
}

#[test]
fn no_frame_is_longer_than_the_protocol_says() {
    let mut buffer = [0; 2 * FRAME_BYTES];
    let fits = |bytes: usize, buffer: &mut [u8]| {
        let rows = &vec![0x55; bytes];
        let number = u32::MAX;
        encode(
            &Request {
                number,
                ask: Ask::Predict { rows },
            },
            buffer,
        )
        .map(<[u8]>::len)
    };
    let whole = fits(DATA_BYTES, &mut buffer).expect("as much as is promised fits");
    assert!(whole <= FRAME_BYTES + 2);
    assert!(fits(DATA_BYTES, &mut buffer[..whole]).is_some());
    assert!(fits(DATA_BYTES, &mut buffer[..whole - 1]).is_none());
    assert!(fits(FRAME_BYTES, &mut buffer).is_none());
    for short in 0..8 {
        assert!(fits(4, &mut buffer[..short]).is_none());
    }
    // Any byte comes back as it was, zeros too.
    for byte in 0..=255 {
        let rows = &[byte; DATA_BYTES];
        let sent = request(7, Ask::Predict { rows });
        assert_eq!(sent.iter().filter(|&&byte| byte == 0).count(), 2);
        let mut frame = sent[1..sent.len() - 1].to_vec();
        let back: Request<'_> = decode(&mut frame).expect("it is whole");
        assert_eq!(back.ask, Ask::Predict { rows });
    }
}

#[test]
fn no_damage_to_a_frame_goes_unnoticed() {
    let sent = request(
        1234,
        Ask::Predict {
            rows: &data(&[1.0, -2.5]),
        },
    );
    let whole = &sent[1..sent.len() - 1];
    let is_read = |frame: &[u8]| decode::<Request<'_>>(&mut frame.to_vec()).is_some();
    assert!(is_read(whole));
    for bit in 0..8 * whole.len() {
        let mut frame = whole.to_vec();
        frame[bit / 8] ^= 1 << (bit % 8);
        assert!(!is_read(&frame), "bit {bit}");
    }
    for len in 0..whole.len() {
        assert!(!is_read(&whole[..len]), "{len} bytes");
    }
    for extra in 1..=255 {
        assert!(!is_read(&[whole, &[extra]].concat()));
    }
    // A right checksum does not make an unknown request known.
    for unknown in [5_u8, 6, 100, 127] {
        let sent = frame(&(7_u32, unknown, 3_u8));
        assert!(!is_read(&sent[1..sent.len() - 1]), "{unknown}");
    }
}

/// A stream of `count` frames in a hostile mix, and the replies that it deserves.
struct Hostile {
    chunks: Vec<Vec<u8>>,
    replies: Vec<Vec<u8>>,
    valid: usize,
}

impl Hostile {
    fn new(evaluator: &Evaluator, count: usize, ticks: u32) -> Self {
        let mut random = Pcg64::seed_from_u64(5);
        let inputs = evaluator.model().inputs();
        let mut numbers = Numbers(11);
        let (mut chunks, mut replies) = (Vec::new(), Vec::new());
        for number in 0..count as u32 {
            let values = numbers.many(inputs * random.random_range(1..4));
            let predict = request(
                number,
                Ask::Predict {
                    rows: &data(&values),
                },
            );
            let inside = 1..predict.len() - 1;
            let chunk = match random.random_range(0..12) {
                // Anything, zeros too.
                0..2 => {
                    let bytes = (0..random.random_range(1..80)).map(|_| random.random());
                    bytes.chain([0]).collect()
                }
                // The line breaks off, and begins anew with a zero or the next frame.
                2 => [&predict[..random.random_range(inside)], &[0]].concat(),
                3 => predict[..random.random_range(inside)].to_vec(),
                // A bit is not what it was; or a byte is one more or less.
                4 => {
                    let mut frame = predict.clone();
                    frame[random.random_range(inside)] ^= 1 << random.random_range(0..8);
                    frame
                }
                5 => {
                    let mut frame = predict.clone();
                    frame.insert(random.random_range(inside), random.random_range(1..=255));
                    frame
                }
                6 => {
                    let mut frame = predict.clone();
                    frame.remove(random.random_range(inside));
                    frame
                }
                // Longer than any frame.
                7 if random.random_range(0..10) == 0 => {
                    let len = FRAME_BYTES + random.random_range(1..600);
                    (0..len)
                        .map(|_| random.random_range(1..=255))
                        .chain([0])
                        .collect()
                }
                7 => vec![0; random.random_range(1..9)],
                // An unknown request, well framed.
                8 => frame(&(number, random.random_range(5_u8..128), &values)),
                _ => {
                    let rows = rows(evaluator, &values, ticks);
                    replies.push(frame(&Reply {
                        number,
                        answer: Answer::Rows(&rows),
                    }));
                    predict
                }
            };
            chunks.push(chunk);
        }
        let valid = replies.len();
        Self {
            chunks,
            replies,
            valid,
        }
    }

    /// Asserts that `frames` are the replies, whose ticks are not looked at.
    fn deserves(&self, frames: &[Vec<u8>], outputs: usize) {
        assert!(self.valid > self.chunks.len() / 5 && self.valid < self.chunks.len() / 2);
        for (k, (frame, expected)) in frames.iter().zip(&self.replies).enumerate() {
            let mut frame = frame.clone();
            let mut expected = expected[1..expected.len() - 1].to_vec();
            let reply: Reply<'_> = decode(&mut frame).expect("the server's frames are whole");
            let expected: Reply<'_> = decode(&mut expected).expect("ours too");
            assert_eq!(reply.number, expected.number, "reply {k}");
            let (Answer::Rows(said), Answer::Rows(due)) = (reply.answer, expected.answer) else {
                panic!("{reply:?}");
            };
            assert_eq!(said.len(), due.len());
            let (said, due) = (said.as_chunks::<4>().0, due.as_chunks::<4>().0);
            for (said, due) in said.chunks(outputs + 1).zip(due.chunks(outputs + 1)) {
                assert_eq!(said[..outputs], due[..outputs], "reply {k}");
                assert_ne!(said[outputs], UNCOUNTED.to_le_bytes());
            }
        }
        assert_eq!(frames.len(), self.replies.len());
    }
}

#[test]
fn on_the_host_a_hostile_stream_gets_what_it_deserves() {
    let blob = Blob::random(3, false, &[2, 5, 3], false);
    let evaluator = Evaluator::load(blob.bytes()).expect("the blob is good");
    let hostile = Hostile::new(&evaluator, 100_000, 45);
    let flash = Flash::of(blob.bytes());
    let said = served(flash.bytes(), &hostile.chunks.concat());
    hostile.deserves(&frames(&said), 3);
}

#[test]
fn in_qemu_ten_thousand_hostile_frames_get_what_they_deserve() {
    let blob = Blob::random(3, false, &[2, 5, 3], false);
    let evaluator = Evaluator::load(blob.bytes()).expect("the blob is good");
    let hostile = Hostile::new(&evaluator, 10_000, 0);
    let mut line = firmware().connect(blob.bytes()).expect("QEMU starts");
    let mut receiver = Receiver::new();
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    let mut listen = |line: &mut dyn Link, said: &mut Vec<Vec<u8>>, patience| {
        let received = line.receive(&mut buffer, patience).unwrap_or(0);
        for &byte in &buffer[..received] {
            said.extend(receiver.push(byte).map(|frame| frame.to_vec()));
        }
        received > 0
    };
    for chunk in &hostile.chunks {
        line.send(chunk).expect("QEMU runs");
        listen(&mut line, &mut said, Duration::from_micros(1));
    }
    // All that was asked is answered before this.
    line.send(&request(1 << 30, Ask::Info)).expect("QEMU runs");
    let start = Instant::now();
    let mut last = None;
    while last.is_none() && start.elapsed() < Duration::from_secs(120) {
        listen(&mut line, &mut said, Duration::from_millis(100));
        last = said.pop_if(|frame| {
            let mut copy = frame.clone();
            let reply: Option<Reply<'_>> = decode(&mut copy);
            reply.is_some_and(|reply| reply.number == 1 << 30)
        });
    }
    hostile.deserves(&said, 3);
    match decode(&mut last.expect("QEMU answers")).map(|reply: Reply<'_>| reply.answer) {
        Some(Answer::Info(info)) => {
            assert_eq!(info.device.fault, None);
            // Not reset: it remembers every answer.
            assert_eq!(info.answered as usize, hostile.valid);
        }
        other => panic!("{other:?}"),
    }
    assert!(!listen(&mut line, &mut said, Duration::from_millis(200)));
}

/// A board at a serial port: the server on the host, behind a pseudo-terminal.
pub struct Board {
    pub port: String,
    unplugged: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Board {
    /// With `flash` in its flash, and all in order.
    pub fn plug_in(flash: &[u8]) -> Self {
        Self::with(flash, |_| ())
    }

    /// With `flash` in its flash. Whatever it sends passes through `change`.
    pub fn with(flash: &[u8], mut change: impl FnMut(&mut Vec<u8>) + Send + 'static) -> Self {
        let (mut line, port) = TTYPort::pair().expect("the system has pseudo-terminals");
        let name = port.name().expect("they have names");
        // A client must find the port free.
        drop(port);
        line.set_timeout(Duration::from_millis(20))
            .expect("a timeout can be set");
        let mut speaker = line.try_clone_native().expect("the line goes both ways");
        let unplugged = Arc::new(AtomicBool::new(false));
        let gone = Arc::clone(&unplugged);
        let flash = Flash::of(flash);
        let server = thread::spawn(move || {
            let mut desk = Desk(
                || {
                    let mut byte = [0];
                    while !gone.load(Ordering::Relaxed) {
                        match line.read(&mut byte) {
                            Ok(1) => return Some(byte[0]),
                            // Nobody has the port open, or says anything.
                            _ => thread::sleep(Duration::from_millis(1)),
                        }
                    }
                    None
                },
                |bytes: &[u8]| {
                    let mut bytes = bytes.to_vec();
                    change(&mut bytes);
                    // Nobody may listen any more.
                    let _ = speaker.write_all(&bytes);
                },
            );
            server::serve(
                &mut desk,
                IDENTITY,
                flash.bytes(),
                &mut ModelBytes([0; RAM]),
            );
        });
        Self {
            port: name,
            unplugged,
            server: Some(server),
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.unplugged.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            server.join().expect("the server does not panic");
        }
    }
}

#[test]
fn a_board_at_a_serial_port_computes_the_bits_of_the_host() {
    let in_flash = Blob::random(3, false, &[2, 5, 3], false);
    let other = Blob::random(1, false, &[3, 4], false);
    let board = Board::plug_in(in_flash.bytes());
    for blob in [&in_flash, &other, &in_flash] {
        let evaluator = Evaluator::load(blob.bytes()).expect("the blob is good");
        let inputs = evaluator.model().inputs();
        // A client of its own each time: that before it has closed the port.
        let mut device = Device::at_port(&board.port).unwrap_or_else(|error| panic!("{error}"));
        device
            .hold(blob.bytes())
            .unwrap_or_else(|error| panic!("{error}"));
        let values = Numbers(3).many(500 * inputs);
        let mut done = Vec::new();
        let run = device
            .evaluate(&values, inputs, |rows| done.push(rows))
            .unwrap_or_else(|error| panic!("{error}"));
        let host = evaluator.eval(&values.iter().map(|&x| x.into()).collect::<Vec<f64>>());
        assert_eq!(run.equal_outputs(&host), host.len());
        assert_eq!(
            (run.outputs.len(), run.machine.as_str()),
            (host.len(), "desk")
        );
        assert_eq!(
            run.unit,
            Unit::Cycles {
                per_second: 1_000_000
            }
        );
        // 45 ticks, of which 3 are around nothing.
        let cost = Cost {
            min: 42,
            median: 42,
            max: 42,
        };
        assert_eq!(run.cost(), Some(cost));
        assert!(
            done.is_sorted() && done.last() == Some(&500) && done.len() > 5,
            "{done:?}"
        );
        // In flash, the first needs not be sent.
        assert_eq!(run.model.in_ram, blob.bytes() == other.bytes());
    }
}

#[test]
fn a_model_that_the_board_does_not_have_and_cannot_hold_is_to_be_flashed() {
    let large = Blob::random(3, false, &[16, 16], false);
    assert!(large.bytes().len() > RAM);
    let board = Board::plug_in(&[]);
    let mut device = Device::at_port(&board.port).unwrap_or_else(|error| panic!("{error}"));
    let error = device.hold(large.bytes()).expect_err("it does not fit");
    assert!(matches!(error, DeviceError::NotHeld { .. }), "{error}");
    assert!(
        error.to_string().contains("kan pack MODEL --board desk"),
        "{error}"
    );
    assert!(matches!(
        device.evaluate(&[0.0], 1, |_| ()),
        Err(DeviceError::Refused { .. })
    ));
}

#[test]
fn what_a_line_spoils_is_asked_for_again() {
    let blob = Blob::random(3, false, &[2, 5, 3], false);
    let evaluator = Evaluator::load(blob.bytes()).expect("the blob is good");
    // Every third answer is spoilt: by a bit, a byte that is lost, and an end that is.
    let mut sent = 0;
    let board = Board::with(blob.bytes(), move |bytes| {
        sent += 1;
        let middle = bytes.len() / 2;
        match sent % 9 {
            3 => bytes[middle] ^= 1,
            6 => drop(bytes.remove(middle)),
            0 => bytes.truncate(middle),
            _ => {}
        }
    });
    let line = serialport::new(&board.port, 115_200)
        .open()
        .expect("the port is free");
    let patience = Duration::from_millis(200);
    let mut device = Device::new("desk".into(), Box::new(line), patience, None)
        .unwrap_or_else(|error| panic!("{error}"));
    let values = Numbers(3).many(2 * 600);
    let run = device
        .evaluate(&values, 2, |_| ())
        .unwrap_or_else(|error| panic!("{error}"));
    let host = evaluator.eval(&values.iter().map(|&x| x.into()).collect::<Vec<f64>>());
    assert_eq!(
        (run.equal_outputs(&host), run.outputs.len()),
        (host.len(), host.len())
    );
}

#[test]
fn a_silent_or_missing_port_is_an_error_in_time() {
    let (line, port) = TTYPort::pair().expect("the system has pseudo-terminals");
    let start = Instant::now();
    let patience = Duration::from_millis(100);
    match Device::new(
        "nobody".into(),
        Box::new(Box::new(port) as Box<_>),
        patience,
        None,
    ) {
        Err(error @ DeviceError::Silent { .. }) => {
            assert!(
                error
                    .to_string()
                    .starts_with("nobody does not answer: 3 requests"),
                "{error}"
            );
        }
        other => panic!("{:?}", other.err()),
    }
    assert!(start.elapsed() < Duration::from_secs(2));
    drop(line);
    let missing = Device::at_port("/dev/no-such-port")
        .err()
        .expect("there is none");
    assert!(
        missing.to_string().starts_with("/dev/no-such-port: "),
        "{missing}"
    );
}

/// A board that gets one bit of the first output wrong.
pub fn liar(flash: &[u8]) -> Board {
    let mut lied = false;
    Board::with(flash, move |bytes| {
        let mut frame = bytes[1..bytes.len() - 1].to_vec();
        let Some(Reply {
            number,
            answer: Answer::Rows(data),
        }) = decode(&mut frame)
        else {
            return;
        };
        if !lied {
            lied = true;
            let mut data = data.to_vec();
            data[0] ^= 1;
            *bytes = self::frame(&Reply {
                number,
                answer: Answer::Rows(&data),
            });
        }
    })
}
