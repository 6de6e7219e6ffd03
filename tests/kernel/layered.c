/* A TLS library whose functions are built on one another: SSL_read_ex on one SSL_read and SSL_write_ex on one SSL_write, as those of AWS-LC and
 * LibreSSL are, and SSL_write_early_data on SSL_write_ex, as that of OpenSSL is. It ciphers nothing: an SSL is the text that is read. */
#include <string.h>

#define EXPORTED __attribute__((noinline, visibility("default")))

EXPORTED char *SSL_new(char *text)
{
	return text;
}

EXPORTED int SSL_read(char *ssl, char *buffer, int length)
{
	memcpy(buffer, ssl, length);
	return length;
}

EXPORTED int SSL_write(char *ssl, const char *buffer, int length)
{
	(void)ssl, (void)buffer;
	return length > 10 ? 10 : length; /* a part, as with SSL_MODE_ENABLE_PARTIAL_WRITE */
}

EXPORTED int SSL_read_ex(char *ssl, char *buffer, size_t length, size_t *done)
{
	*done = SSL_read(ssl, buffer, length);
	return 1;
}

EXPORTED int SSL_write_ex(char *ssl, const char *buffer, size_t length, size_t *done)
{
	*done = 0;
	while (*done < length)
		*done += SSL_write(ssl, buffer + *done, length - *done);
	return 1;
}

EXPORTED int SSL_write_early_data(char *ssl, const char *buffer, size_t length, size_t *done)
{
	return SSL_write_ex(ssl, buffer, length, done) + (*done == 0);
}

EXPORTED int SSL_get_early_data_status(const char *ssl)
{
	(void)ssl;
	return 2; /* SSL_EARLY_DATA_ACCEPTED */
}

EXPORTED void SSL_reset_early_data_reject(char *ssl)
{
	(void)ssl;
}

EXPORTED void SSL_free(char *ssl)
{
	(void)ssl;
}
