//! An oven held at a temperature: thermocouple, KAN, heater.
//!
//! The thermocouple's voltage comes from an MCP3421 (18-bit ADC with a ×8 amplifier) and the
//! temperature of the place where its wires end, the cold junction, from a TMP102 beside it. The
//! network turns the two into the temperature of the hot junction, which a fixed formula can do
//! only piecewise. The heater gets power in proportion to what is missing.
//!
//! It fails safe: whatever goes wrong, and whenever the network is asked about something it has
//! never seen, the heater is off and the alarm on. Wire a burn-out resistor across the ADC input:
//! a broken thermocouple then reads full scale, which is out of the model's domain.

use embedded_hal::{
    digital::{self, OutputPin},
    i2c::{self, I2c},
    pwm::{self, SetDutyCycle},
};
use kan_core::Model;

/// I²C address of the thermocouple's ADC (MCP3421A0).
pub const ADC_ADDRESS: u8 = 0x68;

/// I²C address of the cold junction's thermometer (TMP102, ADD0 to ground).
pub const COLD_JUNCTION_ADDRESS: u8 = 0x48;

/// Milliseconds to wait after [`Oven::start`] and between two calls of [`Oven::step`]: the ADC
/// makes 3.75 conversions a second, at worst 3.
pub const PERIOD_MS: u32 = 350;

/// Shortage of temperature, in °C, from which on the heater runs at full power.
pub const PROPORTIONAL_BAND: f32 = 40.0;

/// MCP3421 configuration: continuous conversion, 18 bits, gain 8.
const ADC_CONFIGURATION: u8 = 0b0001_1111;

/// MCP3421 status bit in the fourth byte of a reading: nothing new since the last one.
const ADC_NOT_READY: u8 = 0b1000_0000;

/// Millivolts of one ADC step: 2048 mV / 2^17 steps / gain 8.
const ADC_STEP: f32 = 2048.0 / 131_072.0 / 8.0;

/// TMP102 register with the temperature: 12 bits, left-aligned in two bytes.
const TEMPERATURE_REGISTER: u8 = 0x00;

/// Degrees Celsius of one step of the TMP102.
const TEMPERATURE_STEP: f32 = 0.0625;

/// Why a step failed. The heater is off and the alarm on, as far as they still listen.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The thermocouple's ADC did not answer.
    Thermocouple(i2c::ErrorKind),
    /// The ADC has made no new conversion: it has stopped, or the call came too early.
    Stale,
    /// The cold junction's thermometer did not answer.
    ColdJunction(i2c::ErrorKind),
    /// The heater did not accept its duty cycle: its state is unknown.
    Heater(pwm::ErrorKind),
    /// The alarm pin could not be set.
    Alarm(digital::ErrorKind),
}

/// What one step measured and did.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Reading {
    /// Voltage of the thermocouple in mV, −256 to 256.
    pub thermocouple: f32,
    /// Temperature of the cold junction in °C.
    pub cold_junction: f32,
    /// Temperature of the hot junction in °C, as the network has it.
    pub temperature: f32,
    /// Whether both measurements lie where the network is defined. If not, `temperature` is that
    /// of the nearest point where it is, and the heater is off.
    pub in_domain: bool,
    /// Power of the heater, 0 to 1.
    pub power: f32,
}

/// The oven: its bus, its heater, its alarm, and a network from \[mV, °C\] to \[°C\].
pub struct Oven<'m, Bus, Heater, Alarm, const WIDTH: usize, const LAYERS: usize> {
    bus: Bus,
    heater: Heater,
    alarm: Alarm,
    model: Model<'m, 2, 1, WIDTH, LAYERS>,
}

impl<'m, Bus, Heater, Alarm, const WIDTH: usize, const LAYERS: usize>
    Oven<'m, Bus, Heater, Alarm, WIDTH, LAYERS>
where
    Bus: I2c,
    Heater: SetDutyCycle,
    Alarm: OutputPin,
{
    /// Takes the peripherals and starts the ADC, with heater and alarm off.
    ///
    /// `model` is any of two inputs, the voltage in mV and the cold junction in °C, and one output
    /// in °C, such as the one `kan demo` makes.
    pub fn start(
        bus: Bus,
        heater: Heater,
        alarm: Alarm,
        model: Model<'m, 2, 1, WIDTH, LAYERS>,
    ) -> Result<Self, Error> {
        let mut oven = Self {
            bus,
            heater,
            alarm,
            model,
        };
        oven.actuate(0.0, false)?;
        if let Err(error) = oven.bus.write(ADC_ADDRESS, &[ADC_CONFIGURATION]) {
            oven.actuate(0.0, true)?;
            return Err(Error::Thermocouple(i2c::Error::kind(&error)));
        }
        Ok(oven)
    }

    /// Measures, and sets heater and alarm for an oven that is wanted at `setpoint` °C (NaN:
    /// heater off). To be called every [`PERIOD_MS`] milliseconds or less often.
    pub fn step(&mut self, setpoint: f32) -> Result<Reading, Error> {
        let (thermocouple, cold_junction) = match self.measure() {
            Ok(measured) => measured,
            Err(error) => {
                self.actuate(0.0, true)?;
                return Err(error);
            }
        };
        let input = [thermocouple, cold_junction];
        let [temperature] = self.model.eval(&input);
        let in_domain = self.model.in_domain(&input);
        let shortage = setpoint - temperature;
        let power = if in_domain && shortage > 0.0 {
            (shortage / PROPORTIONAL_BAND).min(1.0)
        } else {
            0.0
        };
        self.actuate(power, !in_domain)?;
        Ok(Reading {
            thermocouple,
            cold_junction,
            temperature,
            in_domain,
            power,
        })
    }

    /// Gives the peripherals back, as the last step left them.
    pub fn release(self) -> (Bus, Heater, Alarm) {
        (self.bus, self.heater, self.alarm)
    }

    /// The thermocouple in mV and the cold junction in °C.
    fn measure(&mut self) -> Result<(f32, f32), Error> {
        let mut adc = [0; 4];
        self.bus
            .read(ADC_ADDRESS, &mut adc)
            .map_err(|error| Error::Thermocouple(i2c::Error::kind(&error)))?;
        let [high, middle, low, status] = adc;
        if status & ADC_NOT_READY != 0 {
            return Err(Error::Stale);
        }
        // 18 bits, sign-extended to 24 by the ADC; 24 bits are exact in f32.
        let steps = i32::from_be_bytes([high, middle, low, 0]) >> 8;

        let mut temperature = [0; 2];
        self.bus
            .write_read(
                COLD_JUNCTION_ADDRESS,
                &[TEMPERATURE_REGISTER],
                &mut temperature,
            )
            .map_err(|error| Error::ColdJunction(i2c::Error::kind(&error)))?;
        let sixteenths = i16::from_be_bytes(temperature) >> 4;

        Ok((
            steps as f32 * ADC_STEP,
            f32::from(sixteenths) * TEMPERATURE_STEP,
        ))
    }

    /// Sets heater and alarm: no heat without a working alarm, no silence about a deaf heater.
    fn actuate(&mut self, power: f32, alarm: bool) -> Result<(), Error> {
        let heated = self.heat(power);
        let sounded = self
            .alarm
            .set_state((alarm || heated.is_err()).into())
            .map_err(|error| Error::Alarm(digital::Error::kind(&error)));
        if sounded.is_err() {
            self.heat(0.0)?;
        }
        heated.and(sounded)
    }

    /// Sets the heater to a part, 0 to 1, of its full power.
    fn heat(&mut self, power: f32) -> Result<(), Error> {
        let duty = (power * f32::from(self.heater.max_duty_cycle())) as u16;
        self.heater
            .set_duty_cycle(duty)
            .map_err(|error| Error::Heater(pwm::Error::kind(&error)))
    }
}
