"""Write tone.npy: two seconds of a C major chord as the model takes it, to record golden cases from.

Needs numpy alone:  python tone.py
"""

from pathlib import Path

import numpy as np

RATE_HZ = 22050
SAMPLES = 43844  # the window of the model


def main():
    """A chord that swells and fades, in steps of 1/128 so that the file of golden cases stays small."""
    time_s = np.arange(SAMPLES) / RATE_HZ
    chord = sum(np.sin(2 * np.pi * pitch_hz * time_s) for pitch_hz in (261.63, 329.63, 392.0))
    envelope = np.sin(np.pi * np.arange(SAMPLES) / SAMPLES)
    audio = np.round(chord / 3 * envelope * 128) / 128
    np.save(Path(__file__).parent / "tone.npy", audio.astype(np.float32).reshape(1, SAMPLES, 1))


if __name__ == "__main__":
    main()
