"""`python -m quran_asr` is `quran-asr`."""

from quran_asr.cli.main import main

if __name__ == "__main__":
    main()
