//! The pictures of docs/pages.md. `TAPIO_PICTURES=1` makes them.

use std::{collections::HashMap, fs, path::PathBuf};

use color_quant::NeuQuant;

use crate::{
    browser::{Browser, DESK, PHONE, View, browser},
    site::Site,
};

/// Bytes of a picture.
const MAX_BYTES: u64 = 80_000;
/// Colours of a picture: few more are on a page.
const COLOURS: usize = 64;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/pages")
}

#[test]
fn pictures_are_small_and_named_in_the_docs() {
    let page = fs::read_to_string(directory().with_extension("md")).unwrap();
    let mut count = 0;
    for entry in fs::read_dir(directory()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let bytes = entry.metadata().unwrap().len();
        assert!(bytes < MAX_BYTES, "{name}: {bytes} bytes");
        assert!(page.contains(&format!("pages/{name}")), "{name} is not in docs/pages.md");
        count += 1;
    }
    assert_eq!(page.matches("](pages/").count(), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_made_if_asked_for() {
    if std::env::var_os("TAPIO_PICTURES").is_none() {
        return;
    }
    let browser = browser!("pictures_are_made_if_asked_for");
    let dark = |view| View { is_dark: true, ..view };
    for (scenario, page, view, name) in [
        ("two", 0, PHONE, "now-phone"),
        ("two", 0, dark(DESK), "now-dark"),
        ("leak", 1, DESK, "incident"),
        ("leak", 1, dark(PHONE), "incident-phone-dark"),
        ("leak", 2, DESK, "workload"),
        ("leak", 3, PHONE, "changes-phone"),
        ("leak", 4, DESK, "blast"),
        ("leak", 5, dark(PHONE), "coverage-phone-dark"),
    ] {
        let site = Site::of(scenario).await;
        browser.view(view).await;
        browser.go(&site.url(&site.pages()[page])).await;
        browser.until("document.documentElement.classList.contains('script')", crate::site::SOON).await;
        take(&browser, name).await;
    }
    browser.close().await;
}

/// Writes what is in the window, with few colours.
async fn take(browser: &Browser, name: &str) {
    let shot = browser.client.screenshot().await.unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(shot)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let rgba: Vec<u8> = match info.color_type {
        png::ColorType::Rgb => pixels.chunks(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect(),
        _ => pixels,
    };
    let quant = NeuQuant::new(1, COLOURS, &rgba);
    let mut known = HashMap::new();
    let indexes: Vec<u8> = rgba
        .chunks(4)
        .map(|pixel| {
            *known.entry(pixel.to_vec()).or_insert_with(|| u8::try_from(quant.index_of(pixel)).unwrap())
        })
        .collect();
    fs::create_dir_all(directory()).unwrap();
    let file = fs::File::create(directory().join(format!("{name}.png"))).unwrap();
    let mut encoder = png::Encoder::new(file, info.width, info.height);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(quant.color_map_rgb());
    encoder.set_compression(png::Compression::High);
    encoder.write_header().unwrap().write_image_data(&indexes).unwrap();
}
