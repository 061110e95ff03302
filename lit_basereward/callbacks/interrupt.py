class GracefulStop: pass
