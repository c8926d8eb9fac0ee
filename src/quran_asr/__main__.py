"""Entry point of `quran-asr` and of `python -m quran_asr`; Ctrl-C ends it quietly even while it imports."""

from quran_asr.cli.interrupt import end_interrupted

try:
    from quran_asr.cli.main import main
except KeyboardInterrupt:  # what comes later, `main` itself looks after
    end_interrupted()

if __name__ == "__main__":
    main()
