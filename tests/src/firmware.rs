//! The firmware's application with mocked peripherals, and the proof by linking that nothing of
//! `kan-core` can panic. (That nothing of the model server can, `board` shows.)

use embedded_hal_mock::eh1::{
    MockError,
    digital::{Mock as Pin, State, Transaction as PinEvent},
    i2c::{Mock as Bus, Transaction as BusEvent},
    pwm::{Mock as Pwm, Transaction as PwmEvent},
};
use firmware_example::oven::{Error, Oven, Reading};
use kan_core::{
    Model, ModelBytes,
    blob::{Aligned, Head, LayerMessage, Message, Node, Scalar},
};
use kan_train_host::emulator::toolchain;

use embedded_hal::{
    digital,
    i2c::{self, NoAcknowledgeSource},
    pwm,
};

/// Duty cycle of full power.
const FULL: u16 = 1000;

/// MCP3421: 4 mV, that is 2048 steps of 2^-9 mV, and a new conversion.
const FOUR_MILLIVOLTS: [u8; 4] = [0x00, 0x08, 0x00, 0x1F];

/// TMP102: 25 °C, that is 400 sixteenths, left-aligned.
const WARM: [u8; 2] = [0x19, 0x00];

/// The straight line 25 °C/mV · voltage + cold junction, over −8 to 56 mV and −40 to 88 °C: exact
/// in f32 for all that the sensors can say.
fn line() -> ModelBytes<[u8; 512]> {
    let nodes = [
        Node {
            lo: -8.0,
            inv_step: 1.0 / 32.0,
            margin: 0.0,
            intervals: 2,
            edges: 1,
        }
        .pack(),
        Node {
            lo: -40.0,
            inv_step: 1.0 / 128.0,
            margin: 0.0,
            intervals: 1,
            edges: 1,
        }
        .pack(),
    ];
    let layer = LayerMessage {
        degree: 1,
        scalar: Scalar::F32,
        residual: false,
        outputs: 1,
        nodes: Aligned::of(&nodes),
        bias: Aligned::of(&[0.0_f32]),
        targets: Aligned::of(&[0_u16, 0]),
        coefficients: Aligned::of(&[-200.0_f32, 600.0, 1400.0, -40.0, 88.0]),
        base: Aligned::of::<f32>(&[]),
    };
    let message = Message {
        name: "line",
        head: Head::Identity,
        input_names: "mv\ncold_junction",
        output_names: "celsius",
        layers: &[layer],
    };
    let mut blob = ModelBytes([0; 512]);
    message.encode(&mut blob.0).expect("512 bytes are enough");
    blob
}

/// What the bus carries in a step with these readings.
fn readings(adc: [u8; 4], cold_junction: [u8; 2]) -> Vec<BusEvent> {
    vec![
        BusEvent::read(0x68, adc.to_vec()),
        BusEvent::write_read(0x48, vec![0x00], cold_junction.to_vec()),
    ]
}

/// What the heater gets when its duty cycle is set.
fn heat(duty: u16) -> Vec<PwmEvent> {
    vec![
        PwmEvent::max_duty_cycle(FULL),
        PwmEvent::set_duty_cycle(duty),
    ]
}

fn alarm(on: bool) -> Vec<PinEvent> {
    vec![PinEvent::set(if on { State::High } else { State::Low })]
}

/// Starts an oven and takes one step, which must cause exactly these events after those of the
/// start: ADC configured to continuous conversion, 18 bits, gain 8; heater and alarm off.
#[track_caller]
fn step(
    setpoint: f32,
    bus: Vec<BusEvent>,
    heater: Vec<PwmEvent>,
    alarms: Vec<PinEvent>,
) -> Result<Reading, Error> {
    let blob = line();
    let len = kan_core::blob_len(&blob.0).expect("it is a blob");
    let model = Model::<2, 1, 1, 1>::load(&blob.0[..len]).expect("it is a good one");
    let bus = Bus::new(&[vec![BusEvent::write(0x68, vec![0b0001_1111])], bus].concat());
    let heater = Pwm::new(&[heat(0), heater].concat());
    let pin = Pin::new(&[alarm(false), alarms].concat());
    let mut oven = Oven::start(bus, heater, pin, model).expect("nothing fails at the start");
    let result = oven.step(setpoint);
    let (mut bus, mut heater, mut pin) = oven.release();
    bus.done();
    heater.done();
    pin.done();
    result
}

#[test]
fn the_heater_gets_power_in_proportion_to_what_is_missing() {
    // 25 °C/mV · 4 mV + 25 °C = 125 °C; the heater's band is 40 °C wide.
    for (setpoint, duty) in [
        (145.0, FULL / 2),
        (135.0, FULL / 4),
        (165.0, FULL),
        (1000.0, FULL),
        (f32::INFINITY, FULL),
        (125.0, 0),
        (124.0, 0),
        (f32::NEG_INFINITY, 0),
        (f32::NAN, 0),
    ] {
        let reading = step(
            setpoint,
            readings(FOUR_MILLIVOLTS, WARM),
            heat(duty),
            alarm(false),
        );
        let expected = Reading {
            thermocouple: 4.0,
            cold_junction: 25.0,
            temperature: 125.0,
            in_domain: true,
            power: f32::from(duty) / f32::from(FULL),
        };
        assert_eq!(reading, Ok(expected), "set to {setpoint} °C");
    }
}

#[test]
fn sensor_bytes_are_read_as_the_datasheets_say() {
    for (adc, millivolts) in [
        ([0x00, 0x00, 0x00, 0x1F], 0.0),
        ([0x00, 0x00, 0x01, 0x1F], 1.0 / 512.0),
        ([0xFF, 0xFF, 0xFF, 0x1F], -1.0 / 512.0),
        ([0xFF, 0xFE, 0x00, 0x1F], -1.0),
        ([0x00, 0x6E, 0x00, 0x1F], 55.0),
    ] {
        for (bytes, celsius) in [
            ([0x00, 0x00], 0.0),
            ([0x00, 0x10], 0.0625),
            ([0xFF, 0xF0], -0.0625),
            ([0xF5, 0xC0], -10.25),
            ([0x50, 0x00], 80.0),
        ] {
            let reading = step(-300.0, readings(adc, bytes), heat(0), alarm(false)).unwrap();
            assert_eq!(
                (reading.thermocouple, reading.cold_junction),
                (millivolts, celsius)
            );
            assert_eq!(reading.temperature, 25.0 * millivolts + celsius);
            assert!(reading.in_domain);
        }
    }
}

#[test]
fn out_of_domain_the_heater_is_off_and_the_alarm_on() {
    let full_scale = [0x01, 0xFF, 0xFF, 0x1F];
    let reversed = [0xFE, 0x00, 0x00, 0x1F];
    let hot = [0x7D, 0x00];
    for (adc, cold_junction, temperature) in [
        (full_scale, WARM, 1400.0 + 25.0),
        (reversed, WARM, -200.0 + 25.0),
        (FOUR_MILLIVOLTS, hot, 100.0 + 88.0),
    ] {
        let reading = step(2000.0, readings(adc, cold_junction), heat(0), alarm(true)).unwrap();
        assert!(!reading.in_domain);
        assert_eq!((reading.temperature, reading.power), (temperature, 0.0));
    }
}

#[test]
fn whatever_fails_the_heater_goes_off_and_the_alarm_on() {
    let silent = i2c::ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address);

    let dead_adc = vec![BusEvent::read(0x68, vec![0; 4]).with_error(silent)];
    let result = step(500.0, dead_adc, heat(0), alarm(true));
    assert_eq!(result, Err(Error::Thermocouple(silent)));

    let old_value = vec![BusEvent::read(0x68, vec![0x00, 0x08, 0x00, 0x9F])];
    assert_eq!(
        step(500.0, old_value, heat(0), alarm(true)),
        Err(Error::Stale)
    );

    let mut no_cold_junction = readings(FOUR_MILLIVOLTS, WARM);
    no_cold_junction[1] = no_cold_junction[1].clone().with_error(silent);
    let result = step(500.0, no_cold_junction, heat(0), alarm(true));
    assert_eq!(result, Err(Error::ColdJunction(silent)));

    let refusal = MockError::Io(std::io::ErrorKind::NotConnected);
    let mut deaf_heater = heat(FULL);
    deaf_heater[1] = deaf_heater[1].clone().with_error(refusal.clone());
    let result = step(
        500.0,
        readings(FOUR_MILLIVOLTS, WARM),
        deaf_heater,
        alarm(true),
    );
    assert_eq!(result, Err(Error::Heater(pwm::ErrorKind::Other)));

    let broken_alarm = vec![alarm(false).remove(0).with_error(refusal)];
    let on_then_off = [heat(FULL), heat(0)].concat();
    let result = step(
        500.0,
        readings(FOUR_MILLIVOLTS, WARM),
        on_then_off,
        broken_alarm,
    );
    assert_eq!(result, Err(Error::Alarm(digital::ErrorKind::Other)));
}

#[test]
fn an_oven_without_its_adc_does_not_start() {
    let blob = line();
    let len = kan_core::blob_len(&blob.0).expect("it is a blob");
    let model = Model::<2, 1, 1, 1>::load(&blob.0[..len]).expect("it is a good one");
    let kind = i2c::ErrorKind::ArbitrationLoss;
    let mut bus = Bus::new(&[BusEvent::write(0x68, vec![0b0001_1111]).with_error(kind)]);
    let mut heater = Pwm::new(&[heat(0), heat(0)].concat());
    let mut pin = Pin::new(&[alarm(false), alarm(true)].concat());
    let oven = Oven::start(bus.clone(), heater.clone(), pin.clone(), model);
    assert_eq!(oven.err(), Some(Error::Thermocouple(kind)));
    bus.done();
    heater.done();
    pin.done();
}

#[test]
fn nothing_that_kan_core_offers_a_device_can_panic() {
    // Targets, processors where they matter, and further features.
    let builds = [
        ("thumbv7em-none-eabihf", "", ""),
        ("thumbv7em-none-eabihf", "", ",kan-core/micromath"),
        ("thumbv8m.main-none-eabihf", "", ""),
        ("thumbv8m.main-none-eabihf", "-Ctarget-cpu=cortex-m33", ""),
        ("thumbv7m-none-eabi", "", ""),
        ("thumbv6m-none-eabi", "", ""),
    ];
    let profiles = ["firmware", "firmware-speed"];
    for ((target, flags, features), profile) in builds
        .map(|build| profiles.map(|profile| (build, profile)))
        .concat()
    {
        let build = toolchain("cargo")
            .args(["build", "--quiet", "--profile", profile])
            .args(["--package", "firmware-example", "--bin", "panic-free"])
            .args(["--features", &format!("panic-never{features}")])
            .args(["--target", target])
            .env("RUSTFLAGS", flags)
            .output()
            .expect("cargo starts");
        let said = String::from_utf8_lossy(&build.stderr);
        assert!(
            !said.contains("at least one panicking branch"),
            "kan-core can panic: firmware-example/src/panic_free.rs does not link for {target} \
             {flags} {features} in profile {profile}, because the compiler finds a panic reachable"
        );
        assert!(
            build.status.success(),
            "panic-free does not build (is the target there? rustup target add {target}): {said}"
        );
    }
}
