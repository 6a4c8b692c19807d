//! The least firmware around a model of any shape, with `f32` tables or, where it takes none of
//! these, from integers to integers: it exists for its size, and its inputs come from nowhere.
//! `regulate` is firmware that does something. With the feature `peer` it has a perceptron in place
//! of the model.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(all(target_os = "none", feature = "peer"))]
mod peer;

#[cfg(all(target_os = "none", feature = "peer"))]
#[cortex_m_rt::entry]
fn main() -> ! {
    use core::hint::black_box;
    let mut input = [0.0; peer::CAPACITY[0]];
    loop {
        let output = peer::predict(black_box(&input));
        input[0] = black_box(&output)[0];
    }
}

#[cfg(all(target_os = "none", not(feature = "peer")))]
#[cortex_m_rt::entry]
fn main() -> ! {
    use core::hint::black_box;
    use firmware_example::CAPACITY;
    use kan_core::kinds;

    /// The kinds of tables that it takes, as a number: floats unless the build says otherwise.
    const KINDS: u16 = match option_env!("KAN_KINDS") {
        Some(number) => match u16::from_str_radix(number, 10) {
            Ok(kinds) => kinds,
            Err(_) => panic!("KAN_KINDS is a sum of kinds"),
        },
        None => kinds::F32,
    };
    type Model = kan_core::Model<
        'static,
        { CAPACITY.inputs },
        { CAPACITY.outputs },
        { CAPACITY.width },
        { CAPACITY.layers },
        KINDS,
    >;
    let mut model = Model::empty();
    loop {
        let region: &[u8] = black_box(&[]);
        if model.reload(region).is_err() {
            continue;
        }
        if KINDS & kinds::F32 == 0 {
            let input = black_box([0; CAPACITY.inputs]);
            black_box(model.eval_q(&input));
        } else {
            let (input, output): (&[f32], &mut [f32]) = black_box((&[], &mut []));
            model.eval_into(input, output);
            black_box(output);
        }
    }
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[cfg(not(target_os = "none"))]
fn main() {
    println!("This is firmware; its size matters: cargo firmware-size");
}
