namespace edufast::EDUFAST_ISA { }
