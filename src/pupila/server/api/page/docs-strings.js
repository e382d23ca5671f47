// The sentences of the page that shows the API.

export const DOCS = {
  en: {
    "docs.title": "This server's API",
    "docs.text": "Every path can be tried here. For programs:",
    "docs.back": "Home",
    "docs.waiting": "Asking the server …",
    "docs.parameters": "Parameters",
    "docs.curl": "From a terminal",
    "docs.try": "Try it",
    "docs.send": "Send",
    "docs.pictures": "Pictures",
  },
  "pt-BR": {
    "docs.title": "A API deste servidor",
    "docs.text": "Você pode experimentar cada caminho aqui. Para programas:",
    "docs.back": "Início",
    "docs.waiting": "Consultando o servidor …",
    "docs.parameters": "Parâmetros",
    "docs.curl": "No terminal",
    "docs.try": "Experimentar",
    "docs.send": "Enviar",
    "docs.pictures": "Imagens",
  },
};
