//! What a KAN is compared with: the int8 perceptron in the `.tflite` file that the environment
//! variable KAN_PEER names when this is built, as microflow compiles it.

use microflow::buffer::Buffer2D;

include!(concat!(env!("OUT_DIR"), "/perceptron.rs"));

/// Inputs, outputs, output nodes of the widest layer and layers of the KAN that learnt the same:
/// the capacity of its type, from the environment variable KAN_CAPACITY.
pub const CAPACITY: [usize; 4] = {
    let (mut numbers, mut k) = ([0; 4], 0);
    let text = env!("KAN_CAPACITY").as_bytes();
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b',' => k += 1,
            digit => numbers[k] = 10 * numbers[k] + (digit - b'0') as usize,
        }
        at += 1;
    }
    numbers
};

/// Its outputs, in their own unit. Inputs and outputs are quantised here, on the device.
pub fn predict(input: &[f32; CAPACITY[0]]) -> [f32; CAPACITY[1]] {
    let output = Perceptron::predict(Buffer2D::from_fn(|_, column| input[column]));
    core::array::from_fn(|column| output[column])
}
