"""The exact transducer loss, with an engine for each kind of device."""
